//! The token that etcd wants with every call once it knows users.
//!
//! etcd's client could fetch tokens by itself, but only while connecting, when etcd may be down, and it does not know the
//! answer "revision of auth store is old", which follows every change of a user. A token is fetched before the first
//! call that needs it and again when etcd refuses it; of many calls that want one at once, one asks.

use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use etcd_client::Client;
use http::HeaderValue;
use tonic::Status;
use weft_types::SystemClock;

use super::convert;
use super::options::Credentials;

/// The token, shared by all connections of a store: every member knows a token that one of them gave.
pub(super) struct Tokens {
    credentials: Option<Credentials>,
    // Held to copy or to replace a header, never across an await.
    held: Mutex<Held>,
    // Whoever holds it asks etcd; the others wait, each within its own time limit, and find the token there, or the refusal.
    asking: tokio::sync::Mutex<Option<Refusal>>,
}

/// How long a refused password is not tried again. To check one costs etcd tens of milliseconds of processor time, and when it
/// is changed, every call of every process is refused.
const REFUSED_FOR: Duration = Duration::from_secs(10);

/// etcd's verdict on the user and the password.
struct Refusal {
    until: Instant,
    verdict: Status,
}

/// A token by its number: a call that is refused says which one it had, so that a newer one is not thrown away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Serial(u64);

#[derive(Default)]
struct Held {
    // 0 before the first answer.
    serial: Serial,
    // `None` also when etcd has no users.
    header: Option<HeaderValue>,
}

impl Tokens {
    /// Nothing is asked before the first call.
    pub(super) fn new(credentials: Option<Credentials>) -> Self {
        Self { credentials, held: Mutex::default(), asking: tokio::sync::Mutex::default() }
    }

    /// What a call has to carry at the moment.
    pub(super) fn header(&self) -> Option<HeaderValue> {
        self.held().header.clone()
    }

    /// Makes a call with a token, and once more with a new one if etcd refuses it: such a call was not carried out.
    pub(super) async fn authorize<T, F>(
        &self,
        client: &Client,
        call: impl Fn() -> F + Send + Sync,
    ) -> Result<T, etcd_client::Error>
    where
        F: Future<Output = Result<T, etcd_client::Error>> + Send,
    {
        if self.credentials.is_none() {
            return call().await;
        }
        let mut serial = self.held().serial;
        if serial == Serial::default() {
            serial = self.renew(serial, client).await?;
        }
        match call().await {
            Err(error) if convert::is_token_refused(&error) => {
                self.renew(serial, client).await?;
                call().await
            }
            outcome => outcome,
        }
    }

    /// Gets a token other than `refused`, unless somebody else has done so meanwhile.
    async fn renew(&self, refused: Serial, client: &Client) -> Result<Serial, etcd_client::Error> {
        let Some(Credentials { user, password }) = &self.credentials else { return Ok(refused) };
        let mut refusal = self.asking.lock().await;
        let serial = self.held().serial;
        if serial != refused {
            return Ok(serial);
        }
        let now = SystemClock::now();
        if let Some(Refusal { verdict, .. }) = refusal.as_ref().filter(|refusal| now < refusal.until) {
            return Err(etcd_client::Error::GRpcStatus(verdict.clone()));
        }
        // Nothing is held but `asking` here, which a dropped future gives back.
        let header = match client.auth_client().authenticate(user.clone(), password.clone()).await {
            Ok(answer) => Some(header(answer.token())?),
            // Users may be switched on later; calls are refused then, and a token is asked for again.
            Err(error) if convert::is_without_users(&error) => None,
            Err(etcd_client::Error::GRpcStatus(verdict)) if convert::is_user_refused(&verdict) => {
                // Jittered, so that a thousand processes do not ask at once again.
                let until = now + REFUSED_FOR.mul_f64(0.5 + rand::random::<f64>());
                *refusal = Some(Refusal { until, verdict: verdict.clone() });
                return Err(etcd_client::Error::GRpcStatus(verdict));
            }
            Err(error) => return Err(error),
        };
        *refusal = None;
        let serial = Serial(serial.0 + 1);
        *self.held() = Held { serial, header };
        Ok(serial)
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        // It is replaced whole: a panic elsewhere cannot have left it half done.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn header(token: &str) -> Result<HeaderValue, etcd_client::Error> {
    let mut header = HeaderValue::from_str(token)
        .map_err(|_| etcd_client::Error::GRpcStatus(Status::internal("the token is not a header")))?;
    header.set_sensitive(true);
    Ok(header)
}
