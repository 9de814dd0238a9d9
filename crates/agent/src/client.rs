//! An agent as its controller sees it: calls that block, each with a time-out.

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use godwit_migration::{PartError, Told};
use godwit_model::NodeName;
use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tonic::client::Grpc;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;
use tower::service_fn;

use crate::ca::Files;
use crate::wire::{
    self, CopyEvent, HelloReply, HelloRequest, OLDEST, Open, PROTOCOL, StatusReply, StatusRequest, StepReply,
    StepRequest,
};

/// How long a connection, its handshake and its hello may take.
const CONNECT: Duration = Duration::from_secs(5);
/// An agent in the middle of pre-copy says something more often than this.
const SILENCE: Duration = Duration::from_secs(10);
/// Between two attempts at an agent that is being started again.
const PAUSE: Duration = Duration::from_millis(10);
/// How often a long step asks whether to go on.
const LOOK_UP: Duration = Duration::from_millis(50);

/// Where an agent is asked.
#[derive(Clone)]
pub enum Address {
    /// A socket of the file system.
    Unix(PathBuf),
    /// TCP with mutual TLS.
    Tcp {
        /// Where.
        address: SocketAddr,
        /// The controller's certificate.
        identity: Files,
    },
}

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The agent did not answer: it may or may not have done it.
    #[error("the agent of {node} cannot be reached: {why}")]
    Unreachable {
        /// Whose.
        node: NodeName,
        /// Why.
        why: String,
        /// Whether there is no such socket at all: its node is gone.
        no_socket: bool,
    },
    /// It answered, and will not have it.
    #[error("{0}")]
    Refused(String),
}

impl From<CallError> for PartError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Unreachable { .. } => PartError::unreachable(error.to_string()),
            CallError::Refused(why) => PartError::new(why),
        }
    }
}

/// Calls an agent, over one connection that is made when it is first needed, and again when it broke.
pub struct AgentClient {
    node: NodeName,
    address: Address,
    runtime: Runtime,
    connection: Mutex<Option<Channel>>,
}

/// What an agent says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentInfo {
    /// The protocol that both speak.
    pub protocol: u32,
    /// Its process, as its node sees it.
    pub pid: i32,
    /// Its version.
    pub version: String,
}

/// A migration that is open on a node.
#[derive(Debug, Clone, PartialEq)]
pub struct OpenMigration {
    /// Its number.
    pub id: u64,
    /// Of which workload.
    pub workload: String,
    /// `source` or `target`.
    pub side: String,
    /// How far it is, for a person.
    pub state: String,
    /// For how long nobody has asked for a step of it.
    pub idle: Duration,
}

impl AgentClient {
    /// For the agent of `node`; does not connect yet.
    pub fn new(node: NodeName, address: Address) -> std::io::Result<Self> {
        // On the caller's own thread: a call is answered without another thread having to wake up.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { node, address, runtime, connection: Mutex::default() })
    }

    /// Which node's.
    pub fn node(&self) -> &NodeName {
        &self.node
    }

    /// Connects, and says hello.
    pub fn hello(&self) -> Result<AgentInfo, CallError> {
        self.runtime.block_on(async {
            let channel = self.channel().await?;
            let reply = self.greet(channel).await?;
            Ok(AgentInfo { protocol: reply.protocol, pid: reply.pid, version: reply.version })
        })
    }

    /// Waits for an agent that is being started; what it says, or why it did not come.
    pub fn wait_until_there(&self, patience: Duration) -> Result<AgentInfo, CallError> {
        let deadline = Instant::now() + patience;
        loop {
            match self.hello() {
                Err(CallError::Unreachable { .. }) if Instant::now() < deadline => thread::sleep(PAUSE),
                result => return result,
            }
        }
    }

    /// What is open on its node.
    pub fn status(&self, limit: Duration) -> Result<Vec<OpenMigration>, CallError> {
        let reply: StatusReply = self.call(wire::STATUS, StatusRequest {}, limit)?;
        let open = |open: Open| {
            let migration = open.migration.unwrap_or_default();
            let idle = Duration::try_from_secs_f64(open.idle_s).unwrap_or_default();
            let (id, workload) = (migration.id, migration.workload);
            OpenMigration { id, workload, side: open.side, state: open.state, idle }
        };
        Ok(reply.open.into_iter().map(open).collect())
    }

    /// One step.
    pub(crate) fn step(&self, request: StepRequest, limit: Duration) -> Result<StepReply, PartError> {
        done(self.call(wire::STEP, request, limit)?)
    }

    /// One step that ends something; `node_gone` says what it comes to when there is no node any more.
    pub(crate) fn end(
        &self,
        request: StepRequest,
        limit: Duration,
        node_gone: impl FnOnce(String) -> Result<(), PartError>,
    ) -> Result<(), PartError> {
        match self.call(wire::STEP, request, limit) {
            Err(error @ CallError::Unreachable { no_socket: true, .. }) => node_gone(error.to_string()),
            result => done(result?).map(drop),
        }
    }

    /// One step that may be given up: `go_on` is asked several times a second while it lasts.
    pub(crate) fn step_while(
        &self,
        request: StepRequest,
        limit: Duration,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<StepReply, PartError> {
        let result: Result<StepReply, CallError> = self.runtime.block_on(async {
            let channel = self.channel().await?;
            let mut call = std::pin::pin!(self.unary(channel, wire::STEP, request, limit));
            loop {
                match tokio::time::timeout(LOOK_UP, call.as_mut()).await {
                    Ok(reply) => return reply,
                    Err(_) if go_on() => {}
                    // The agent goes on until its peer hangs up, which the roll-back begins with.
                    Err(_) => return Err(CallError::Refused("cancelled".into())),
                }
            }
        });
        done(self.after(result)?)
    }

    /// Pre-copy: `told` hears of each round, and says whether to go on.
    pub(crate) fn copy(&self, request: StepRequest, told: &mut dyn FnMut(Told) -> bool) -> Result<(), PartError> {
        let result = self.runtime.block_on(async {
            let mut grpc = Grpc::new(self.channel().await?);
            let begin = async {
                ready(&mut grpc).await?;
                let path = PathAndQuery::from_static(wire::COPY);
                let codec = ProstCodec::<StepRequest, CopyEvent>::default();
                grpc.server_streaming(Request::new(request), path, codec).await
            };
            let mut events = self.within(SILENCE, begin).await?.into_inner();
            loop {
                let Some(event) = self.within(SILENCE, events.message()).await? else {
                    return Err(CallError::Refused("pre-copy panicked: this is a bug in Godwit".into()));
                };
                if let Some(failure) = event.failure {
                    return Err(CallError::Refused(failure));
                }
                // Nobody listens any more after a no: that is how the agent learns of it.
                if event.done || event.told().is_some_and(|said| !told(said)) {
                    return Ok(());
                }
            }
        });
        self.after(result).map_err(Into::into)
    }

    fn call<Q, A>(&self, path: &'static str, request: Q, limit: Duration) -> Result<A, CallError>
    where
        Q: prost::Message + 'static,
        A: prost::Message + Default + 'static,
    {
        let result = self.runtime.block_on(async {
            let channel = self.channel().await?;
            self.unary(channel, path, request, limit).await
        });
        self.after(result)
    }

    /// A connection over which a call failed is not used again.
    fn after<T>(&self, result: Result<T, CallError>) -> Result<T, CallError> {
        if matches!(result, Err(CallError::Unreachable { .. })) {
            *self.connection.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        result
    }

    async fn unary<Q, A>(
        &self,
        channel: Channel,
        path: &'static str,
        request: Q,
        limit: Duration,
    ) -> Result<A, CallError>
    where
        Q: prost::Message + 'static,
        A: prost::Message + Default + 'static,
    {
        let mut grpc = Grpc::new(channel);
        let call = async {
            ready(&mut grpc).await?;
            let codec = ProstCodec::<Q, A>::default();
            grpc.unary(Request::new(request), PathAndQuery::from_static(path), codec).await
        };
        self.within(limit, call).await.map(tonic::Response::into_inner)
    }

    async fn within<T>(&self, limit: Duration, call: impl Future<Output = Result<T, Status>>) -> Result<T, CallError> {
        match tokio::time::timeout(limit, call).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(status)) => Err(self.failed(&status)),
            Err(_) => Err(self.unreachable(format!("it does not answer within {} s", limit.as_secs()))),
        }
    }

    /// Only what an agent says itself is certain.
    fn failed(&self, status: &Status) -> CallError {
        match status.code() {
            Code::FailedPrecondition | Code::InvalidArgument | Code::Unimplemented => {
                CallError::Refused(status.message().to_owned())
            }
            _ => self.broken(&chain(status)),
        }
    }

    /// A peer whose certificate is not taken has done nothing: that is certain.
    fn broken(&self, why: &str) -> CallError {
        let node = &self.node;
        if let Some((_, alert)) = why.split_once("received fatal alert: ") {
            CallError::Refused(format!(
                "the agent of {node} does not take this controller's certificate ({alert}): both have to be of one authority, \
                 and the controller's has to be one for controllers"
            ))
        } else if let Some((_, what)) = why.split_once("invalid peer certificate: ") {
            CallError::Refused(format!(
                "the agent's certificate is not one of {node}, or not of this authority: {what}"
            ))
        } else {
            self.unreachable(why.to_owned())
        }
    }

    fn unreachable(&self, why: String) -> CallError {
        CallError::Unreachable { node: self.node.clone(), why, no_socket: false }
    }

    async fn channel(&self) -> Result<Channel, CallError> {
        let known = self.connection.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(channel) = known {
            return Ok(channel);
        }
        let channel = self.connect().await?;
        self.greet(channel.clone()).await?;
        *self.connection.lock().unwrap_or_else(PoisonError::into_inner) = Some(channel.clone());
        Ok(channel)
    }

    async fn connect(&self) -> Result<Channel, CallError> {
        let broken = |e: tonic::transport::Error| self.broken(&chain(&e));
        match &self.address {
            Address::Unix(path) => {
                // First by hand: how it fails says whether the node is there.
                let stream = UnixStream::connect(path).await.map_err(|e| CallError::Unreachable {
                    node: self.node.clone(),
                    why: format!("{}: {e}", path.display()),
                    no_socket: e.kind() == std::io::ErrorKind::NotFound,
                })?;
                let mut once = Some(TokioIo::new(stream));
                let connector = service_fn(move |_: http::Uri| {
                    let stream = once.take().ok_or_else(|| std::io::Error::other("the connection broke"));
                    async { stream }
                });
                let endpoint = Endpoint::from_static("http://agent").connect_timeout(CONNECT);
                endpoint.connect_with_connector(connector).await.map_err(broken)
            }
            Address::Tcp { address, identity } => {
                let tls = ClientTlsConfig::new()
                    .domain_name(self.node.as_str())
                    .ca_certificate(Certificate::from_pem(&identity.authority))
                    .identity(Identity::from_pem(&identity.certificate, &identity.key));
                let endpoint = Endpoint::from_shared(format!("https://{address}")).map_err(broken)?;
                let endpoint = endpoint.tls_config(tls).map_err(broken)?;
                let endpoint = endpoint
                    .connect_timeout(CONNECT)
                    .tcp_nodelay(true)
                    .http2_keep_alive_interval(SILENCE)
                    .keep_alive_timeout(SILENCE)
                    .keep_alive_while_idle(true);
                endpoint.connect().await.map_err(broken)
            }
        }
    }

    async fn greet(&self, channel: Channel) -> Result<HelloReply, CallError> {
        let hello =
            HelloRequest { oldest: OLDEST, newest: PROTOCOL, node: self.node.to_string(), features: Vec::new() };
        let mut greeted = self.unary(channel, wire::HELLO, hello, CONNECT).await;
        // An agent that turns a certificate down may be gone before it has said so.
        if let (Address::Tcp { .. }, Err(CallError::Unreachable { why, .. })) = (&self.address, &mut greeted) {
            why.push_str(" (in the handshake: does it take this controller's certificate?)");
        }
        greeted
    }
}

fn done(reply: StepReply) -> Result<StepReply, PartError> {
    match reply.failure {
        Some(failure) if reply.gone => Err(PartError::gone(failure)),
        Some(failure) => Err(PartError::new(failure)),
        None => Ok(reply),
    }
}

async fn ready(grpc: &mut Grpc<Channel>) -> Result<(), Status> {
    grpc.ready().await.map_err(|e| Status::unavailable(chain(&e)))
}

/// An error with its causes, each once.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut texts: Vec<String> = Vec::new();
    let mut next = Some(error);
    // A status says its causes itself, in a form for programmers.
    if let Some(status) = error.downcast_ref::<Status>() {
        texts.push(status.message().to_owned());
        next = error.source();
    }
    while let Some(cause) = next {
        let text = cause.to_string();
        if !texts.contains(&text) {
            texts.push(text);
        }
        next = cause.source();
    }
    texts.join(": ")
}
