//! Two jobs: one that publishes what a model found, and one that fails before it could, so that what it has done is undone.
//!
//! Their JSON is what `grpcurl -d @` sends to `weft.jobs.v1.Jobs/SubmitJob`. The outside service that they call is the demonstration's own
//! ([`super::gallery`]), which tells afterwards what became of it.

use anyhow::{Context as _, Result, bail, ensure};
use prost_reflect::{DescriptorPool, DynamicMessage};
use serde_json::Value;
use tonic::Request;
use weft_client::within;
use weft_engine::digits::{self, Heldout};
use weft_proto::weft::demo::v1::ListPicturesRequest;
use weft_proto::weft::jobs::v1::{
    Attempt, Direction, GetJobRequest, Job, JobState, StepState, StepStatus, SubmitJobRequest, WatchJobRequest,
};
use weft_proto::{DESCRIPTORS, from_timestamp};
use weft_types::{Deadline, SystemClock};

use super::caller::{Caller, PATIENCE};
use crate::output::print;

const PUBLISH: &str = include_str!("jobs/publish.json");
const UNDONE: &str = include_str!("jobs/undone.json");
/// What the JSON has for the address of the service that is called.
const TARGET: &str = "GALLERY";

/// `gallery` is the address of that service.
pub(crate) async fn show(caller: &Caller, gallery: &str) -> Result<()> {
    print(&format!("the jobs publish to a gallery outside of the mesh (weft.demo.v1.Gallery) on {gallery}"))?;
    let image = digits::heldout().next().context("there are held-out images")?;
    let done = run(caller, request(PUBLISH, gallery, Some(&image))?).await.context("the first job")?;
    ensure!(done.state() == JobState::Completed, "the job ended as {}", done.state().as_str_name());
    hangs(gallery, &done, false).await?;
    let undone = run(caller, request(UNDONE, gallery, None)?).await.context("the second job")?;
    ensure!(undone.state() == JobState::Compensated, "the job ended as {}", undone.state().as_str_name());
    hangs(gallery, &undone, true).await
}

/// The gallery has one picture of the job, which was taken down again or was not.
async fn hangs(gallery: &str, job: &Job, retracted: bool) -> Result<()> {
    let request = ListPicturesRequest { prefix: format!("{}/", job.id) };
    let deadline = Deadline::after(SystemClock::now(), PATIENCE);
    let listed = within(deadline, Caller::new(gallery)?.gallery().list_pictures(request)).await?.into_inner().pictures;
    let [picture] = &listed[..] else { bail!("the gallery has {} pictures of the job: {listed:?}", listed.len()) };
    ensure!(picture.retracted == retracted, "in the gallery: {picture:?}");
    let (step, label) = (picture.key.rsplit('/').next().unwrap_or_default(), picture.label);
    let since = if retracted { "was taken down again" } else { "hangs there" };
    print(&format!(
        "  in the gallery: the picture of step '{step}', which shows {label}, {since}; there is no other of this job"
    ))
}

/// A request of its JSON.
fn request(text: &str, gallery: &str, image: Option<&Heldout>) -> Result<SubmitJobRequest> {
    let mut json: Value = serde_json::from_str(&text.replace(TARGET, gallery))?;
    if let Some(image) = image {
        json["input"]["pixels"] = image.pixels.iter().map(|pixel| Value::from(*pixel)).collect();
    }
    let pool = DescriptorPool::decode(DESCRIPTORS)?;
    let described = pool.get_message_by_name("weft.jobs.v1.SubmitJobRequest").context("the contract is known")?;
    Ok(DynamicMessage::deserialize(described, json)?.transcode_to()?)
}

/// Submits a job, watches it to its end, and shows what became of it.
async fn run(caller: &Caller, request: SubmitJobRequest) -> Result<Job> {
    let name = request.definition.as_ref().map(|definition| definition.name.clone()).unwrap_or_default();
    // A scheduler that is only starting may not have its shards yet.
    let submit = async |caller: &Caller| Ok(caller.jobs().submit_job(request.clone()).await?.into_inner().job);
    let job = caller.until(submit).await?;
    print(&format!("job '{name}' is {}", job.id))?;
    let deadline = Deadline::after(SystemClock::now(), PATIENCE);
    let watch = Request::new(WatchJobRequest { id: job.id.clone(), after_revision: 0 });
    let mut watch = within(deadline, caller.jobs().watch_job(watch)).await?.into_inner();
    let mut last = job;
    while let Some(told) = within(deadline, watch.message()).await? {
        last = told.job.context("a transition tells the job")?;
    }
    for step in &last.steps {
        print(&line(step))?;
    }
    let why = if last.failure.is_empty() { String::new() } else { format!(": {}", last.failure) };
    print(&format!("  the job is {}{why}", short(last.state().as_str_name(), "JOB_STATE_")))?;
    let get = GetJobRequest { id: last.id.clone(), flowchart: true, definition: false };
    let told = within(deadline, caller.jobs().get_job(get)).await?.into_inner();
    // Whoever draws it wants the colours; here they would be half of it.
    let lines = told.flowchart.lines().filter(|line| !line.trim_start().starts_with("classDef"));
    lines.map(|line| format!("  {line}")).try_for_each(|line| print(&line))?;
    Ok(last)
}

/// A step's course on one line.
fn line(step: &StepStatus) -> String {
    let attempts: Vec<String> = step.attempts.iter().map(attempt).collect();
    let state = StepState::try_from(step.state).unwrap_or_default();
    format!("  {:<8} {:<8} {}", step.name, short(state.as_str_name(), "STEP_STATE_"), attempts.join(", "))
}

fn attempt(attempt: &Attempt) -> String {
    let direction = Direction::try_from(attempt.direction).unwrap_or_default();
    let at = |time: &Option<prost_types::Timestamp>| time.as_ref().and_then(from_timestamp);
    let took =
        at(&attempt.ended_at).zip(at(&attempt.started_at)).and_then(|(end, start)| end.duration_since(start).ok());
    let took = took.map_or_else(String::new, |took| format!(" in {} ms", took.as_millis()));
    let by = if attempt.place.is_empty() { String::new() } else { format!(" by {}", attempt.place) };
    let why = if attempt.code.is_empty() { String::new() } else { format!(" ({}: {})", attempt.code, attempt.message) };
    format!("{} {}{took}{by}{why}", short(direction.as_str_name(), "DIRECTION_"), attempt.outcome)
}

fn short(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_lowercase()
}
