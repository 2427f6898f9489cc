//! One call of etcd: within the time limit, with a token, on a member that can be reached.

use std::future::Future;
use std::sync::Arc;

use super::channel::Connection;
use super::convert::Blame;
use super::{EtcdStore, convert};
use crate::port::Error;

/// A call that gave no answer.
pub(super) enum Failure {
    /// The time limit passed.
    TimedOut,
    /// What etcd's client says.
    Client(etcd_client::Error),
}

impl Failure {
    fn blame(&self) -> Blame {
        match self {
            Self::TimedOut => Blame::Connection,
            Self::Client(error) => convert::blame(error),
        }
    }

    pub(super) fn into_error(self) -> Error {
        match self {
            Self::TimedOut => Error::Unavailable("no answer within the time limit".into()),
            Self::Client(error) => convert::error(&error),
        }
    }
}

impl EtcdStore {
    /// One call within the time limit. `call` may be made more than once, each time because etcd did not carry it out.
    pub(super) async fn call<T, F>(&self, call: impl Fn(Arc<Connection>) -> F + Send + Sync) -> Result<T, Error>
    where
        F: Future<Output = Result<T, etcd_client::Error>> + Send,
    {
        self.attempt(call).await.map_err(Failure::into_error)
    }

    /// As [`Self::call`], with what went wrong.
    pub(super) async fn attempt<T, F>(&self, call: impl Fn(Arc<Connection>) -> F + Send + Sync) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, etcd_client::Error>> + Send,
    {
        let mut used = self.endpoints.current();
        let answer = tokio::time::timeout(self.options.call_timeout, self.reach(&mut used, &call)).await;
        // Dropping a call that is over its limit resets its stream; the change may or may not happen.
        let failure = match answer {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => Failure::Client(error),
            Err(_) => Failure::TimedOut,
        };
        self.endpoints.leave(&used, failure.blame()).await;
        Err(failure)
    }

    /// Goes on to the next member while nothing listens at this one: such a call never left.
    async fn reach<T, F>(
        &self,
        used: &mut Arc<Connection>,
        call: impl Fn(Arc<Connection>) -> F + Send + Sync,
    ) -> Result<T, etcd_client::Error>
    where
        F: Future<Output = Result<T, etcd_client::Error>> + Send,
    {
        for _ in 1..self.endpoints.count() {
            match self.tokens.authorize(&used.client, || call(used.clone())).await {
                Err(error) if convert::never_left(&error) => {
                    self.endpoints.leave(used, Blame::Member).await;
                    *used = self.endpoints.current();
                }
                outcome => return outcome,
            }
        }
        self.tokens.authorize(&used.client, || call(used.clone())).await
    }
}
