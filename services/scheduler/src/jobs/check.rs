//! The fields of requests about jobs, before anything is done with them.

use std::time::Duration;

use weft_journal::JobId;
use weft_proto::weft::jobs::v1::{JobState, ListJobsRequest, SubmitJobRequest};
use weft_types::{Error, Result};

/// What a tenant is called who is not named.
const DEFAULT_TENANT: &str = "default";
const MAX_NAME_BYTES: usize = 128;
const MAX_REASON_BYTES: usize = 256;
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(3_600);
const MIN_TIMEOUT: Duration = Duration::from_millis(1);
const MAX_TIMEOUT: Duration = Duration::from_secs(30 * 24 * 3_600);
/// As long as values are kept that no record refers to.
const MAX_UNJOURNALED_TIMEOUT: Duration = Duration::from_secs(24 * 3_600);
const DEFAULT_PAGE: usize = 100;
const MAX_PAGE: usize = 1_000;

/// A job's id.
pub(super) fn id(text: &str) -> Result<JobId> {
    text.parse().map_err(|error| Error::invalid("id", error))
}

/// A tenant's name, or what stands for none.
pub(super) fn tenant(text: &str) -> Result<String> {
    if text.is_empty() {
        return Ok(DEFAULT_TENANT.to_owned());
    }
    let fits = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '_' | '-');
    if text.len() > MAX_NAME_BYTES || !text.chars().all(fits) {
        let bound = format_args!("must be at most {MAX_NAME_BYTES} letters, digits, '.', '_' and '-'");
        return Err(Error::invalid("tenant", bound));
    }
    Ok(text.to_owned())
}

/// An idempotency key; it may be empty.
pub(super) fn key(text: &str) -> Result<()> {
    // It becomes part of a key in the store.
    if text.chars().count() > MAX_NAME_BYTES || !text.chars().all(|letter| letter.is_ascii_graphic() && letter != '/') {
        let bound = format_args!("must be at most {MAX_NAME_BYTES} visible ASCII characters other than '/'");
        return Err(Error::invalid("key", bound));
    }
    Ok(())
}

/// How long a job may take.
pub(super) fn timeout(request: &SubmitJobRequest) -> Result<Duration> {
    let Some(told) = &request.timeout else { return Ok(DEFAULT_TIMEOUT) };
    let told = weft_proto::from_duration(told).filter(|told| (MIN_TIMEOUT..=MAX_TIMEOUT).contains(told));
    told.ok_or_else(|| Error::invalid("timeout", "must be 1 ms to 30 days"))
}

/// Whether a job may take that long of which the log knows nothing: nobody sees which values it still needs.
pub(super) fn unjournaled(timeout: Duration) -> Result<()> {
    match timeout <= MAX_UNJOURNALED_TIMEOUT {
        true => Ok(()),
        false => Err(Error::invalid("timeout", "must be at most 1 day for a job that is not journaled")),
    }
}

/// A text for people, cut where the log would not keep it.
pub(super) fn reason(text: &str) -> String {
    let end = text.char_indices().map(|(at, letter)| at + letter.len_utf8()).take_while(|end| *end <= MAX_REASON_BYTES);
    text[..end.last().unwrap_or(0)].to_owned()
}

/// Where a job stands among all: by the time of its submission.
pub(super) fn place(id: &JobId) -> (&str, u8) {
    (id.ulid(), id.shard())
}

/// Which jobs a listing is about, and how many of them.
pub(super) struct Filter {
    tenant: String,
    definition: String,
    states: Vec<JobState>,
    stuck: bool,
    pub(super) page: usize,
    /// Only jobs older than this one.
    pub(super) before: Option<JobId>,
}

impl Filter {
    pub(super) fn try_new(request: &ListJobsRequest) -> Result<Self> {
        let state = |(at, state): (usize, &i32)| {
            JobState::try_from(*state).map_err(|_| Error::invalid(format!("states[{at}]"), "is none that is known"))
        };
        for (field, text) in [("tenant", &request.tenant), ("definition", &request.definition)] {
            if text.len() > MAX_NAME_BYTES {
                return Err(Error::invalid(field, format_args!("must be at most {MAX_NAME_BYTES} bytes")));
            }
        }
        if request.states.len() > MAX_PAGE {
            return Err(Error::invalid("states", "names more states than there are"));
        }
        let page = usize::try_from(request.page_size).unwrap_or(usize::MAX);
        if page > MAX_PAGE {
            return Err(Error::invalid("page_size", format_args!("must be 1 to {MAX_PAGE}")));
        }
        let token = request.page_token.as_str();
        let before = (!token.is_empty()).then(|| token.parse()).transpose();
        Ok(Self {
            tenant: request.tenant.clone(),
            definition: request.definition.clone(),
            states: request.states.iter().enumerate().map(state).collect::<Result<_>>()?,
            stuck: request.stuck,
            page: if page == 0 { DEFAULT_PAGE } else { page },
            before: before.map_err(|_| Error::invalid("page_token", "is none that was told"))?,
        })
    }

    /// Whether a job is one of those, and belongs to this page or a later one.
    pub(super) fn takes_page(&self, record: &weft_journal::Record) -> bool {
        self.is_due(&record.id) && self.takes(record)
    }

    /// As [`Self::takes_page`], of a job of which nothing but its id is known: of nobody, and stuck.
    pub(super) fn takes_unread(&self, id: &JobId) -> bool {
        self.is_due(id) && self.tenant.is_empty() && self.definition.is_empty() && self.states.is_empty()
    }

    fn is_due(&self, id: &JobId) -> bool {
        self.before.as_ref().is_none_or(|before| place(id) < place(before))
    }

    /// Whether a job is one of those.
    pub(super) fn takes(&self, record: &weft_journal::Record) -> bool {
        let state = super::view::job_state(record.job.state);
        (self.tenant.is_empty() || self.tenant == record.tenant)
            && (self.definition.is_empty() || self.definition == record.definition_name)
            && (self.states.is_empty() || self.states.contains(&state))
            && (!self.stuck || record.job.stuck.is_some())
    }
}
