//! The outside service that the demonstration's jobs call, written as a participant is: each method reads the call's [`Mark`], asks the
//! [`Barrier`], and does what that says. What it shows ends with the process, and so do the barrier's rows.

mod walls;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tonic::{Request, Response, Status, async_trait};
use weft_participant::{Barrier, Direction, Entry, Limits, Mark, Pass, mark};
use weft_proto::status_of;
use weft_proto::weft::demo::v1::gallery_server::{self, GalleryServer};
use weft_proto::weft::demo::v1::{
    ListPicturesRequest, ListPicturesResponse, ProbeRequest, ProbeResponse, PublishRequest, PublishResponse,
    RetractRequest, RetractResponse,
};
use weft_runtime::{Api, Health, Server, ServerOptions, Tasks};
use weft_telemetry::Scope;
use weft_types::{Error, Reason, Result, SystemClock};

use walls::Walls;

/// How long its last calls may take: nothing is left of the mesh that would make any.
const GRACE: Duration = Duration::from_secs(1);

struct Gallery {
    barrier: Barrier,
    // Held for a look or one change, never across an await.
    walls: Mutex<Walls>,
}

/// Serves on a free port of this machine until the process ends. Returns the address.
pub(crate) async fn serve(tasks: &Tasks) -> anyhow::Result<String> {
    let server = Server::bind(ServerOptions::default()).await?;
    let address = server.address().to_string();
    let barrier = Barrier::in_memory(Arc::new(SystemClock), Limits { rows: walls::MOST * 4, ..Limits::default() });
    let gallery = GalleryServer::new(Gallery { barrier, walls: Mutex::default() });
    let drain = server.serve(Api::new(&Health::default()).with(gallery), Scope::disabled(), tasks)?;
    let finishing = tasks.finishing();
    tasks.spawn("gallery", async move {
        finishing.cancelled().await;
        drain.run(GRACE).await;
    });
    Ok(address)
}

#[async_trait]
impl gallery_server::Gallery for Gallery {
    async fn publish(&self, request: Request<PublishRequest>) -> Result<Response<PublishResponse>, Status> {
        answer(self.hang(request).await)
    }

    async fn retract(&self, request: Request<RetractRequest>) -> Result<Response<RetractResponse>, Status> {
        answer(self.take_down(&request).await)
    }

    async fn probe(&self, request: Request<ProbeRequest>) -> Result<Response<ProbeResponse>, Status> {
        answer(self.look(&request).await)
    }

    async fn list_pictures(
        &self,
        request: Request<ListPicturesRequest>,
    ) -> Result<Response<ListPicturesResponse>, Status> {
        Ok(Response::new(ListPicturesResponse { pictures: self.walls().list(&request.get_ref().prefix) }))
    }
}

impl Gallery {
    async fn hang(&self, request: Request<PublishRequest>) -> Result<PublishResponse> {
        let mark = read(&request, Direction::Action)?;
        let wanted = request.into_inner();
        walls::check(&wanted.place)?;
        let pass = match self.barrier.enter(&mark).await? {
            // Where an earlier call hung it and did not get to say so, it hangs already.
            Entry::Run(pass) | Entry::Unknown(pass) => pass,
            Entry::Answer(answer) => return kept(answer),
            Entry::Nothing => return Err(Error::new(Reason::Internal, "an action has something to do")),
        };
        let hung = self.walls().hang(&mark.key, wanted);
        match hung {
            Ok(number) => done(pass, PublishResponse { number }).await,
            Err(error) => {
                // Nothing hangs, and this attempt must not come again.
                pass.failed().await?;
                Err(error)
            }
        }
    }

    async fn take_down(&self, request: &Request<RetractRequest>) -> Result<RetractResponse> {
        let mark = read(request, Direction::Undo)?;
        let pass = match self.barrier.enter(&mark).await? {
            Entry::Run(pass) | Entry::Unknown(pass) => pass,
            Entry::Answer(answer) => return kept(answer),
            Entry::Nothing => return Ok(RetractResponse { retracted: false }),
        };
        let retracted = self.walls().take_down(&mark.key);
        done(pass, RetractResponse { retracted }).await
    }

    async fn look(&self, request: &Request<ProbeRequest>) -> Result<ProbeResponse> {
        let mark = read(request, Direction::Probe)?;
        let output = match self.barrier.enter(&mark).await? {
            Entry::Answer(answer) => Some(kept(answer)?),
            Entry::Nothing => None,
            Entry::Run(pass) | Entry::Unknown(pass) => {
                let number = self.walls().number(&mark.key);
                match number {
                    Some(number) => Some(done(pass, PublishResponse { number }).await?),
                    None => {
                        pass.failed().await?;
                        None
                    }
                }
            }
        };
        Ok(ProbeResponse { done: Some(output.is_some()), output })
    }

    fn walls(&self) -> MutexGuard<'_, Walls> {
        // A list of pictures is whole at any point: a panic elsewhere cannot have left it half changed.
        self.walls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn answer<T>(outcome: Result<T>) -> Result<Response<T>, Status> {
    outcome.map(Response::new).map_err(|error| status_of(&error))
}

/// The mark of a call that has to be in this direction.
fn read<T>(request: &Request<T>, direction: Direction) -> Result<Mark> {
    let mark = Mark::read(request.metadata())?;
    if mark.direction == direction {
        return Ok(mark);
    }
    Err(Error::invalid(mark::DIRECTION, format_args!("this method takes '{}'", direction.as_str())))
}

/// The answer of the first delivery, for a duplicate.
fn kept<T: prost::Message + Default>(answer: Bytes) -> Result<T> {
    T::decode(answer).map_err(|_| Error::new(Reason::Internal, "the kept answer cannot be read"))
}

async fn done<T: prost::Message>(pass: Pass, answer: T) -> Result<T> {
    pass.done(answer.encode_to_vec().into()).await?;
    Ok(answer)
}

#[cfg(test)]
mod tests;
