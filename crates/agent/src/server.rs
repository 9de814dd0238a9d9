//! The agent's door: a socket, and which call goes where.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::body::Body;
use tonic::server::Grpc;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use tower::service_fn;

use crate::agent::Agent;
use crate::ca;
use crate::config::{AgentConfig, Listen};
use crate::wire::{
    self, CopyEvent, HelloReply, HelloRequest, OLDEST, PROTOCOL, StatusReply, StatusRequest, StepRequest,
};

/// How often an agent says that it lives while a round of pre-copy takes long.
const ALIVE_EVERY: Duration = Duration::from_secs(2);
/// How often leases are looked at.
const LEASES_EVERY: Duration = Duration::from_secs(10);
/// A connection over which nothing comes is asked, and closed when there is no answer.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// Why an agent does not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Its socket.
    #[error("the agent of {node} cannot listen at {at}")]
    Listen {
        /// Whose.
        node: String,
        /// Where.
        at: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its certificates.
    #[error("the agent's certificates")]
    Identity(#[from] ca::CaError),
    /// The server.
    #[error("the agent's server")]
    Server(#[from] tonic::transport::Error),
}

/// Serves until the process ends. What is open then stays as it is, for the next agent of this node.
pub fn serve(config: AgentConfig) -> Result<std::convert::Infallible, ServeError> {
    let (node, listen) = (config.node.to_string(), config.listen.clone());
    let failed = |at: String| move |source| ServeError::Listen { node, at, source };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed.clone()("its runtime".into()))?;
    let doors = Doors(Arc::new(Agent::new(config)));
    let agent = Arc::clone(&doors.0);
    agent.take_up();
    runtime.block_on(async {
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(LEASES_EVERY).await;
                agent.look_at_leases().await;
            }
        });
        let server =
            Server::builder().http2_keepalive_interval(Some(KEEPALIVE)).http2_keepalive_timeout(Some(KEEPALIVE));
        match listen {
            Listen::Unix(path) => {
                let listener = bind_unix(&path).map_err(failed(path.display().to_string()))?;
                let mut server = server;
                server = server.tcp_nodelay(true);
                server.serve_with_incoming(doors, UnixListenerStream::new(listener)).await?;
            }
            Listen::Tcp { address, identity } => {
                let files = ca::Files::read(&identity)?;
                let tls = ServerTlsConfig::new()
                    .identity(Identity::from_pem(&files.certificate, &files.key))
                    .client_ca_root(Certificate::from_pem(&files.authority));
                let listener = TcpListener::bind(address).await.map_err(failed(address.to_string()))?;
                server.tls_config(tls)?.serve_with_incoming(doors, TcpListenerStream::new(listener)).await?;
            }
        }
        unreachable!("listeners do not end")
    })
}

/// Binds beside its place and moves there: whoever looks finds the old socket or the new one.
fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    let fresh = path.with_extension("new");
    match fs::remove_file(&fresh) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(&fresh)?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o600))?;
    fs::rename(&fresh, path)?;
    Ok(listener)
}

/// The service `godwit.agent.v1.Agent`.
#[derive(Clone)]
struct Doors(Arc<Agent>);

type Reply = Pin<Box<dyn Future<Output = Result<http::Response<Body>, std::convert::Infallible>> + Send>>;

impl tower::Service<http::Request<Body>> for Doors {
    type Response = http::Response<Body>;
    type Error = std::convert::Infallible;
    type Future = Reply;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Reply {
        let agent = Arc::clone(&self.0);
        Box::pin(async move {
            Ok(match request.uri().path() {
                wire::HELLO => {
                    let answer = service_fn(move |asked: Request<HelloRequest>| {
                        let reply = hello(agent.config.node.as_str(), asked.get_ref()).map(Response::new);
                        async { reply }
                    });
                    Grpc::new(ProstCodec::default()).unary(answer, request).await
                }
                wire::STEP => {
                    let answer = service_fn(move |asked: Request<StepRequest>| {
                        let agent = Arc::clone(&agent);
                        async move { Ok::<_, Status>(Response::new(agent.step(asked.into_inner()).await)) }
                    });
                    Grpc::new(ProstCodec::default()).unary(answer, request).await
                }
                wire::COPY => {
                    let answer = service_fn(move |asked: Request<StepRequest>| {
                        let events = copy(&agent, asked.into_inner());
                        async { Ok::<_, Status>(Response::new(events)) }
                    });
                    Grpc::new(ProstCodec::default()).server_streaming(answer, request).await
                }
                wire::STATUS => {
                    let answer = service_fn(move |_: Request<StatusRequest>| {
                        let agent = Arc::clone(&agent);
                        async move { Ok::<_, Status>(Response::new(StatusReply { open: agent.status().await })) }
                    });
                    Grpc::new(ProstCodec::default()).unary(answer, request).await
                }
                other => Status::unimplemented(format!("this agent does not know {other}")).into_http(),
            })
        })
    }
}

fn hello(node: &str, asked: &HelloRequest) -> Result<HelloReply, Status> {
    if asked.node != node {
        return Err(Status::failed_precondition(format!("this is the agent of {node}, not of {}", asked.node)));
    }
    let protocol = asked.newest.min(PROTOCOL);
    if protocol < asked.oldest.max(OLDEST) {
        return Err(Status::failed_precondition(format!(
            "the agent of {node} (godwit {}) speaks protocol {OLDEST} to {PROTOCOL}, its controller {} to {}: install the same \
             version of godwit on both",
            env!("CARGO_PKG_VERSION"),
            asked.oldest,
            asked.newest
        )));
    }
    Ok(HelloReply {
        protocol,
        node: node.into(),
        pid: std::process::id().cast_signed(),
        version: env!("CARGO_PKG_VERSION").into(),
        features: Vec::new(),
    })
}

type Events = Pin<Box<dyn Stream<Item = Result<CopyEvent, Status>> + Send>>;

/// The rounds as they come, and signs of life in between.
fn copy(agent: &Agent, request: StepRequest) -> Events {
    let (sender, events) = mpsc::channel(16);
    // Does not keep the stream open when its rounds have come to an end.
    let alive = sender.downgrade();
    agent.copy(request, sender);
    let ticker = tokio::spawn(async move {
        loop {
            tokio::time::sleep(ALIVE_EVERY).await;
            let Some(events) = alive.upgrade() else { return };
            if events.send(CopyEvent::default()).await.is_err() {
                return;
            }
        }
    });
    Box::pin(Rounds { events, ticker })
}

struct Rounds {
    events: mpsc::Receiver<CopyEvent>,
    ticker: tokio::task::JoinHandle<()>,
}

impl Stream for Rounds {
    type Item = Result<CopyEvent, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.events.poll_recv(context).map(|event| event.map(Ok))
    }
}

impl Drop for Rounds {
    fn drop(&mut self) {
        self.ticker.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_controller_of_a_release_that_shares_no_protocol_is_told_what_to_do() {
        let ask =
            |oldest, newest| hello("edge1", &HelloRequest { oldest, newest, node: "edge1".into(), features: vec![] });
        assert_eq!(ask(1, PROTOCOL).unwrap().protocol, PROTOCOL);
        assert_eq!(ask(PROTOCOL, PROTOCOL + 7).unwrap().protocol, PROTOCOL, "a later one that still speaks this");
        for (oldest, newest) in [(PROTOCOL + 1, PROTOCOL + 2), (0, OLDEST - 1)] {
            let refused = ask(oldest, newest).unwrap_err();
            assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
            assert!(refused.message().contains("install the same version of godwit on both"), "{refused}");
        }
    }
}
