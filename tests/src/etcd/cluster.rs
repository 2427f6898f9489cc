//! Several members that agree, with what a test may do to each of them.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use etcd_client::{Client, ConnectOptions};
use futures_util::future::join_all;
use tempfile::TempDir;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

use super::certificates::{self, Certificates, ServerFiles};
use super::member::Member;
use crate::calls::until;

/// How long a member may take to answer one question; a paused one never does.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// Whether clients talk TLS to the members. The members talk plainly to each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tls {
    /// They do not.
    #[default]
    Off,
    /// The members prove who they are.
    Server,
    /// Clients prove it, too.
    Mutual,
}

/// What a cluster is like.
#[derive(Clone, Debug)]
pub struct Setup {
    /// How many members it has.
    pub members: usize,
    /// Whether clients talk TLS to it.
    pub tls: Tls,
    /// The password of its user `root`; none lets everybody in.
    pub password: Option<String>,
    /// How long an unused token is good, in whole seconds; etcd's default is five minutes.
    pub token_ttl: Option<Duration>,
}

impl Setup {
    /// So many members without TLS and passwords.
    pub const fn members(members: usize) -> Self {
        Self { members, tls: Tls::Off, password: None, token_ttl: None }
    }
}

/// An etcd cluster with a data directory of its own. Dropping it kills the processes and removes the directory.
pub struct Cluster {
    // Dropped, and thereby killed, before the directory is removed, which comes last.
    members: Vec<Member>,
    pub(super) certificates: Option<Certificates>,
    pub(super) password: Option<String>,
    dir: TempDir,
}

impl Cluster {
    /// Starts an empty cluster of so many members and waits until all serve.
    pub async fn start(members: usize) -> Result<Self> {
        Self::start_with(Setup::members(members)).await
    }

    /// Starts an empty cluster and waits until all of its members serve.
    pub async fn start_with(setup: Setup) -> Result<Self> {
        let mut cluster = Self::prepare(&setup)?;
        cluster.restart_all().await?;
        if let Some(password) = setup.password {
            cluster.require_password(&password).await?;
            cluster.password = Some(password);
        }
        Ok(cluster)
    }

    /// Where a member's clients connect.
    pub fn client_url(&self, index: usize) -> Result<&str> {
        Ok(&self.member(index)?.client_url)
    }

    /// Where clients connect, one address for each member.
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|member| member.client_url.clone()).collect()
    }

    /// What its clients need, if they talk TLS.
    pub const fn certificates(&self) -> Option<&Certificates> {
        self.certificates.as_ref()
    }

    /// Kills a member as a power cut would; its data stays.
    pub fn kill(&mut self, index: usize) -> Result<()> {
        self.member_mut(index)?.kill()
    }

    /// Starts a member again on its data, at the same address, and waits until it serves: a majority must be there.
    pub async fn restart(&mut self, index: usize) -> Result<()> {
        let member = self.member_mut(index)?;
        member.kill()?;
        member.spawn()?;
        member.ready().await
    }

    /// Starts every member that is down and does not wait.
    pub fn launch_all(&mut self) -> Result<()> {
        self.members.iter_mut().filter(|member| !member.is_running()).try_for_each(Member::spawn)
    }

    /// Starts every member that is down and waits until all serve.
    pub async fn restart_all(&mut self) -> Result<()> {
        self.launch_all()?;
        for member in &mut self.members {
            member.ready().await?;
        }
        Ok(())
    }

    /// Stops a member where it stands: connections stay open and nothing answers.
    pub fn pause(&self, index: usize) -> Result<()> {
        self.member(index)?.pause()
    }

    /// Lets a paused member go on.
    pub fn resume(&self, index: usize) -> Result<()> {
        self.member(index)?.resume()
    }

    /// Waits until the members that answer have a leader, and returns its index.
    pub async fn leader(&self) -> Result<usize> {
        let mut leader = None;
        until("a leader of the etcd cluster", async || {
            leader = self.leader_now().await;
            leader.is_some()
        })
        .await?;
        leader.context("there is one")
    }

    /// A client of one member, for what tests do behind the store's back.
    pub async fn client(&self, index: usize) -> Result<Client> {
        let mut endpoint = Endpoint::from_shared(self.client_url(index)?.to_owned())?.connect_timeout(ANSWER_LIMIT);
        if let Some(own) = &self.certificates {
            let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&own.ca));
            endpoint = endpoint.tls_config(tls.identity(Identity::from_pem(&own.certificate, &own.key)))?;
        }
        let options = self.password.as_ref().map(|password| ConnectOptions::new().with_user("root", password));
        Ok(Client::from_channel(etcd_client::Channel::Tonic(endpoint.connect_lazy()), options).await?)
    }

    /// The member that says it leads, in the latest term that any member knows.
    async fn leader_now(&self) -> Option<usize> {
        let answers = join_all((0..self.members.len()).map(|index| self.status(index))).await;
        let known = answers.into_iter().enumerate().filter_map(|(index, answer)| Some((index, answer?)));
        let (index, latest) = known.max_by_key(|(_, status)| (status.term, status.leads))?;
        latest.leads.then_some(index)
    }

    async fn status(&self, index: usize) -> Option<Status> {
        if !self.member(index).is_ok_and(Member::is_running) {
            return None;
        }
        let answer = tokio::time::timeout(ANSWER_LIMIT, async { self.client(index).await.ok()?.status().await.ok() });
        let answer = answer.await.ok()??;
        let own = answer.header()?.member_id();
        Some(Status { term: answer.raft_term(), leads: answer.leader() == own })
    }

    fn prepare(setup: &Setup) -> Result<Self> {
        ensure!(setup.members > 0, "a cluster has members");
        let binary = super::binary()?;
        let dir = tempfile::Builder::new().prefix("weft-etcd-").tempdir()?;
        let mut cluster = Self { members: Vec::new(), certificates: None, password: None, dir };
        let (scheme, mut flags) = cluster.security(setup.tls)?;
        if let Some(ttl) = setup.token_ttl {
            flags.extend(["--auth-token-ttl".to_owned(), ttl.as_secs().to_string()]);
        }
        for index in 0..setup.members {
            let name = format!("member-{index}");
            let data = cluster.dir.path().join(&name);
            cluster.members.push(Member::new(name, scheme, binary.clone(), data)?);
        }
        let introductions: Vec<String> = cluster.members.iter().map(Member::introduction).collect();
        flags.extend(["--initial-cluster".to_owned(), introductions.join(",")]);
        for member in &mut cluster.members {
            member.flags.clone_from(&flags);
        }
        Ok(cluster)
    }

    /// The scheme of the members' addresses, and what their command line says of certificates.
    fn security(&mut self, tls: Tls) -> Result<(&'static str, Vec<String>)> {
        if tls == Tls::Off {
            return Ok(("http", Vec::new()));
        }
        let (certificates, files) = certificates::make(self.dir.path())?;
        self.certificates = Some(certificates);
        Ok(("https", tls_flags(&files, tls == Tls::Mutual)))
    }

    /// From here on only who knows the password is let in.
    async fn require_password(&self, password: &str) -> Result<()> {
        let mut client = self.client(0).await?;
        client.user_add("root", password, None).await?;
        client.user_grant_role("root", "root").await?;
        client.auth_enable().await?;
        Ok(())
    }

    fn member(&self, index: usize) -> Result<&Member> {
        self.members.get(index).with_context(|| format!("no member {index}"))
    }

    fn member_mut(&mut self, index: usize) -> Result<&mut Member> {
        self.members.get_mut(index).with_context(|| format!("no member {index}"))
    }
}

/// What a member says of itself.
struct Status {
    term: u64,
    leads: bool,
}

fn tls_flags(files: &ServerFiles, is_mutual: bool) -> Vec<String> {
    let path = |path: &Path| path.to_string_lossy().into_owned();
    let mut flags = vec!["--cert-file".to_owned(), path(&files.certificate)];
    flags.extend(["--key-file".to_owned(), path(&files.key)]);
    if is_mutual {
        // With an authority alone etcd wants certificates of its clients already, but does not take them for users.
        flags.extend(["--trusted-ca-file".to_owned(), path(&files.ca), "--client-cert-auth".to_owned()]);
    }
    flags
}
