//! Calls between schedulers, as the other one sees them.

use weft_proto::weft::jobs::v1::jobs_server::{self, JobsServer};
use weft_proto::weft::state::v1::JobOwner;

use super::bounds::listing;
use super::*;

/// A scheduler that a test plays.
#[derive(Clone, Default)]
struct Peer {
    heard: Arc<Mutex<Vec<MetadataMap>>>,
    listed: Arc<Mutex<Vec<Job>>>,
}

impl Peer {
    fn note<T>(&self, request: &Request<T>) {
        self.heard.lock().expect("no test panics while it holds this").push(request.metadata().clone());
    }
}

fn unasked<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("nothing asks for it"))
}

#[async_trait]
impl jobs_server::Jobs for Peer {
    async fn get_job(&self, request: Request<GetJobRequest>) -> Result<Response<GetJobResponse>, Status> {
        self.note(&request);
        let job = Job { id: request.into_inner().id, ..Job::default() };
        Ok(Response::new(GetJobResponse { job: Some(job), ..GetJobResponse::default() }))
    }

    async fn list_jobs(&self, request: Request<ListJobsRequest>) -> Result<Response<ListJobsResponse>, Status> {
        self.note(&request);
        let jobs = self.listed.lock().expect("no test panics while it holds this").clone();
        Ok(Response::new(ListJobsResponse { jobs, ..ListJobsResponse::default() }))
    }

    async fn submit_job(&self, _: Request<SubmitJobRequest>) -> Result<Response<SubmitJobResponse>, Status> {
        unasked()
    }

    type WatchJobStream = stream::Empty<Result<WatchJobResponse, Status>>;

    async fn watch_job(&self, _: Request<WatchJobRequest>) -> Result<Response<Self::WatchJobStream>, Status> {
        unasked()
    }

    async fn cancel_job(&self, _: Request<CancelJobRequest>) -> Result<Response<CancelJobResponse>, Status> {
        unasked()
    }

    async fn signal_job(&self, _: Request<SignalJobRequest>) -> Result<Response<SignalJobResponse>, Status> {
        unasked()
    }

    async fn resolve_job(&self, _: Request<ResolveJobRequest>) -> Result<Response<ResolveJobResponse>, Status> {
        unasked()
    }
}

#[tokio::test]
async fn a_call_that_is_passed_on_carries_its_deadline_and_a_mark() {
    let (cluster, tasks, peer) = (Cluster::new(), Tasks::new(), Peer::default());
    let server = Server::bind(ServerOptions::default()).await.expect("a free port");
    let owner = JobOwner { id: "peer".to_owned(), address: server.address().to_string() };
    let api = Api::new(&Health::default()).with(JobsServer::new(peer.clone()));
    server.serve(api, Scope::disabled(), &tasks).expect("descriptors");
    let owned = format!("{}own/07", cluster.keys.root());
    cluster.put(owned.clone(), &owner).await;
    let (scheduler, running) = cluster.scheduler("s1", options());
    let jobs = scheduler.jobs.clone();
    let own = submit(&jobs, &asked(&waiting(), "")).await;
    let other = "0701ARZ3NDEKTSV4RRFFQ69G5FAV";
    eventually("the owner is known", async || get(&jobs, other).await.is_ok_and(|job| job.id == other)).await;
    {
        let heard = peer.heard.lock().expect("no test panics while it holds this");
        let value = |name: &str| heard[0].get(name).map(|value| value.as_bytes().to_vec()).unwrap_or_default();
        let timeout = weft_types::timeout::parse(&value("grpc-timeout")).expect("a duration");
        assert!(timeout <= PATIENCE, "{timeout:?}");
        assert_eq!(value("weft-forwarded"), b"1");
        assert!(value("traceparent").starts_with(b"00-01010101"));
    }
    // A job that ends while it is listed may be told by two: the newer state counts.
    let newer = Job { revision: own.revision + 1, ..own.clone() };
    *peer.listed.lock().expect("no test panics while it holds this") = vec![newer.clone()];
    let listed = async || jobs.list_jobs(request(ListJobsRequest::default())).await;
    eventually("a listing", async || {
        listed().await.is_ok_and(|listed| {
            let told: Vec<_> = listed.into_inner().jobs.into_iter().map(|job| (job.id, job.revision)).collect();
            assert_eq!(told, [(newer.id.clone(), newer.revision)]);
            true
        })
    })
    .await;
    running.finish(PATIENCE).await;
    assert!(!running.failed());
}

/// A scheduler that never takes its shards: they have no owner.
#[tokio::test]
async fn a_listing_is_whole_or_refused() {
    let cluster = Cluster::new();
    let absent = JobOwner { id: "absent".to_owned(), address: "127.0.0.1:9".to_owned() };
    cluster.put(format!("{}member/absent", cluster.keys.root()), &absent).await;
    let (scheduler, running) = cluster.scheduler("s1", options());
    submit(&scheduler.jobs, &asked(&waiting(), "")).await;
    eventually("some shards", async || scheduler.jobs.0.table.shards() > 64).await;
    for _ in 0..2 {
        let asked = listing(Duration::from_millis(100));
        let refused = scheduler.jobs.list_jobs(asked).await.expect_err("it lacks some");
        assert_eq!(refused.code(), Code::Unavailable, "{refused}");
        assert!(error_of(&refused).pushback().is_some(), "{refused}");
        tokio::task::yield_now().await;
    }
    running.finish(PATIENCE).await;
    assert!(!running.failed());
}
