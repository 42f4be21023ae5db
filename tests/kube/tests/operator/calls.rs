//! The door between operators and the members of one namespace: every call that an operator makes comes by here.
//!
//! ```text
//! operator ─▶ 127.x.y.z:2379 (this door) ─▶ 127.x.y.z:12379 (the member)
//! ```
//!
//! The stand-in starts members of a namespace that has such a door on the other port. A connection belongs to the
//! operator whose process holds its other end; what others ask passes as it is. Calls that change something are
//! counted by the gate of that operator, are cut off with it, and leave a record: when they began and ended, what
//! became of them, and how the members and their disruption budget were then. Nobody else changes a membership
//! meanwhile, since the operator is still waiting for its answer.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use api::etcdserverpb as pb;
use api::etcdserverpb::cluster_client::ClusterClient;
use api::etcdserverpb::maintenance_client::MaintenanceClient;
use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::{Api, Client, api::ListParams};
use tokio::net::{TcpListener, TcpStream};
use tonic::transport::{Channel, Endpoint};

use crate::door::Gate;

/// Where a member listens whose client port is this door's.
const BEHIND: u16 = 12379;

/// Where clients look for it.
const CLIENTS: u16 = 2379;

/// What one question to a member may take.
const ASK: Duration = Duration::from_secs(3);

/// Calls that change a membership.
const MEMBERSHIP: [&str; 3] = ["MemberAdd", "MemberPromote", "MemberRemove"];

/// Calls that change something else.
const OTHERS: [&str; 3] = ["MoveLeader", "Compact", "Defragment"];

type Answer = Response<UnsyncBoxBody<Bytes, hyper::Error>>;
type Sender = SendRequest<UnsyncBoxBody<Bytes, hyper::Error>>;

/// A call that changes something, as it came by.
#[derive(Debug, Clone)]
pub struct Call {
    /// the last word of its path
    pub name: String,
    /// process that made it
    pub from: u32,
    /// address of the member that it asked
    pub to: String,
    /// when it came
    pub began: Instant,
    /// when its answer left
    pub ended: Option<Instant>,
    /// whether the member did it
    pub ok: bool,
    /// how it was afterwards
    pub after: Option<After>,
}

/// The membership after a call, as the member that did it has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct After {
    /// how many vote
    pub voters: usize,
    /// how many learn
    pub learners: usize,
    /// voters that answer and know a leader
    pub well: usize,
    /// `minAvailable` of the disruption budget; nothing without one
    pub min_available: Option<i32>,
}

/// The door of one namespace; cheap to clone.
#[derive(Clone)]
pub struct Calls {
    shared: Arc<Shared>,
}

struct Shared {
    namespace: String,
    client: Client,
    /// operators by process
    gates: Mutex<BTreeMap<u32, Arc<Gate>>>,
    /// addresses that have a door
    doors: Mutex<BTreeSet<String>>,
    calls: Mutex<Vec<Call>>,
}

impl Calls {
    /// A door for the members of a namespace that are started from now on.
    pub fn new(client: Client, namespace: &str) -> Self {
        Self {
            shared: Arc::new(Shared {
                namespace: namespace.to_owned(),
                client,
                gates: Mutex::default(),
                doors: Mutex::default(),
                calls: Mutex::default(),
            }),
        }
    }

    /// From now on what this process asks of members is counted by this gate.
    pub fn attach(&self, process: u32, gate: Arc<Gate>) {
        self.shared
            .gates
            .lock()
            .expect("nobody panics with it")
            .insert(process, gate);
    }

    /// Calls that change something, in the order in which they came.
    pub fn seen(&self) -> Vec<Call> {
        self.shared
            .calls
            .lock()
            .expect("nobody panics with it")
            .clone()
    }

    /// Opens the door before a member, and gives the arguments with which it is started behind it.
    pub fn stand_before(&self, address: &str, args: Vec<String>) -> Vec<String> {
        let new = self
            .shared
            .doors
            .lock()
            .expect("nobody panics with it")
            .insert(address.to_owned());
        if new {
            tokio::spawn(serve(Arc::clone(&self.shared), address.to_owned()));
        }
        let front = format!("--listen-client-urls=http://{address}:{CLIENTS}");
        let behind = format!("--listen-client-urls=http://{address}:{BEHIND}");
        args.into_iter()
            .map(|word| if word == front { behind.clone() } else { word })
            .collect()
    }

    fn membership(&self) -> Vec<Call> {
        let mut calls = self.seen();
        calls.retain(|call| MEMBERSHIP.contains(&call.name.as_str()));
        calls
    }

    /// That voters came and went one at a time, and that there was one learner at most, or two next to a single
    /// voter. Every membership that there was.
    pub fn assert_voters_change_one_by_one(&self) -> Vec<After> {
        let calls = self.membership();
        let after: Vec<After> = calls.into_iter().filter_map(|call| call.after).collect();
        for one in &after {
            let most = if one.voters == 1 { 2 } else { 1 };
            assert!(one.learners <= most, "{one:?} of {after:?}");
        }
        for pair in after.windows(2) {
            assert!(
                pair[0].voters.abs_diff(pair[1].voters) <= 1,
                "{pair:?} of {after:?}"
            );
        }
        after
    }

    /// And that no membership call began before the one before it had ended, that a quorum of voters was well at
    /// each, and that the budget kept it.
    pub fn assert_one_at_a_time(&self) {
        let calls = self.membership();
        assert!(!calls.is_empty(), "no membership call came by this door");
        for pair in calls.windows(2) {
            let ended = pair[0].ended;
            assert!(
                ended.is_some_and(|ended| ended <= pair[1].began),
                "two membership calls at a time: {pair:#?}"
            );
        }
        let after = self.assert_voters_change_one_by_one();
        for one in &after {
            let needed = one.voters / 2 + 1;
            assert!(one.well >= needed, "{one:?} of {after:?}");
            if one.voters > 2 {
                let kept = one.min_available.and_then(|min| usize::try_from(min).ok());
                assert!(kept >= Some(needed), "{one:?} of {after:?}");
            }
        }
    }
}

async fn serve(shared: Arc<Shared>, address: String) {
    let listener = match TcpListener::bind((address.as_str(), CLIENTS)).await {
        Ok(listener) => listener,
        Err(error) => return eprintln!("door before {address}: {error}"),
    };
    while let Ok((stream, from)) = listener.accept().await {
        let to = stream.local_addr().ok();
        let shared = Arc::clone(&shared);
        let address = address.clone();
        tokio::spawn(async move {
            // A member that does not listen takes no connection: the caller's is closed.
            let Ok(behind) = TcpStream::connect((address.as_str(), BEHIND)).await else {
                return;
            };
            let _ = behind.set_nodelay(true);
            let _ = stream.set_nodelay(true);
            match to.and_then(|to| shared.caller(from, to)) {
                Some((process, gate)) => {
                    shared.pass(stream, behind, address, process, gate).await;
                }
                None => copy(stream, behind).await,
            }
        });
    }
}

async fn copy(mut one: TcpStream, mut other: TcpStream) {
    // Either end may close it at any time.
    let _ = tokio::io::copy_bidirectional(&mut one, &mut other).await;
}

impl Shared {
    /// The operator that holds the other end of a connection, if one does.
    fn caller(&self, from: SocketAddr, to: SocketAddr) -> Option<(u32, Arc<Gate>)> {
        let gates = self.gates.lock().expect("nobody panics with it").clone();
        let socket = format!("socket:[{}]", inode(from, to)?);
        gates
            .into_iter()
            .find(|(process, _)| holds(*process, &socket))
    }

    async fn pass(
        self: Arc<Self>,
        stream: TcpStream,
        behind: TcpStream,
        address: String,
        process: u32,
        gate: Arc<Gate>,
    ) {
        let Ok((sender, connection)) = handshake(TokioExecutor::new(), TokioIo::new(behind)).await
        else {
            return;
        };
        let connection = tokio::spawn(connection);
        let service = service_fn(|request| {
            let (shared, gate) = (Arc::clone(&self), Arc::clone(&gate));
            let (sender, address) = (sender.clone(), address.clone());
            async move { shared.call(request, sender, &address, process, &gate).await }
        });
        let front = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        tokio::select! {
            _ = front => connection.abort(),
            // The member has ended, and with it all that was asked of it.
            _ = &mut connection => {}
        }
    }

    async fn call(
        &self,
        request: Request<Incoming>,
        mut sender: Sender,
        address: &str,
        process: u32,
        gate: &Gate,
    ) -> Result<Answer, hyper::Error> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let path = parts.uri.path().to_owned();
        let name = path.rsplit('/').next().unwrap_or_default().to_owned();
        let membership = MEMBERSHIP.contains(&name.as_str());
        // An Alarm request that is empty behind its five bytes of frame only asks.
        let disarms = name == "Alarm" && body.len() > 5;
        let changes = membership || disarms || OTHERS.contains(&name.as_str());
        let method = if changes {
            http::Method::POST
        } else {
            http::Method::GET
        };
        if gate.note(&method, &path, Bytes::new(), changes).is_none() {
            return Ok(unavailable());
        }
        let number = changes.then(|| self.begin(&name, process, address));
        // The caller may go away before the answer comes.
        let _ended = number.map(|number| Ended(self, number));
        let body = Full::new(body).map_err(never).boxed_unsync();
        let answer = sender
            .send_request(Request::from_parts(parts, body))
            .await?;
        let Some(number) = number else {
            return Ok(answer.map(BodyExt::boxed_unsync));
        };
        let (parts, body) = answer.into_parts();
        let body = body.collect().await?;
        let status = body
            .trailers()
            .and_then(|trailers| trailers.get("grpc-status"))
            .or_else(|| parts.headers.get("grpc-status"));
        let ok = status.is_some_and(|status| status == "0");
        let after = if membership {
            self.after(address).await
        } else {
            None
        };
        {
            let mut calls = self.calls.lock().expect("nobody panics with it");
            let call = &mut calls[number];
            (call.ok, call.after) = (ok, after);
        }
        if ok && gate.done() {
            return Ok(unavailable());
        }
        Ok(Response::from_parts(
            parts,
            body.map_err(never).boxed_unsync(),
        ))
    }

    fn begin(&self, name: &str, from: u32, to: &str) -> usize {
        let mut calls = self.calls.lock().expect("nobody panics with it");
        calls.push(Call {
            name: name.to_owned(),
            from,
            to: to.to_owned(),
            began: Instant::now(),
            ended: None,
            ok: false,
            after: None,
        });
        calls.len() - 1
    }

    /// Nothing when the member cannot say so, as one that has just removed itself.
    async fn after(&self, address: &str) -> Option<After> {
        let members = tokio::time::timeout(ASK, members(address))
            .await
            .ok()
            .flatten()?;
        let budgets: Api<PodDisruptionBudget> =
            Api::namespaced(self.client.clone(), &self.namespace);
        let budgets = budgets.list(&ListParams::default()).await.ok()?.items;
        let min_available = budgets
            .first()
            .and_then(|budget| budget.spec.as_ref()?.min_available.clone());
        let voters: Vec<&pb::Member> = members.iter().filter(|one| !one.is_learner).collect();
        let asked = voters.iter().map(|voter| is_well(voter));
        let well = futures::future::join_all(asked).await;
        Some(After {
            voters: voters.len(),
            learners: members.len() - voters.len(),
            well: well.into_iter().filter(|well| *well).count(),
            min_available: match min_available {
                Some(IntOrString::Int(number)) => Some(number),
                _ => None,
            },
        })
    }
}

/// Writes down when a call has ended.
struct Ended<'a>(&'a Shared, usize);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        if let Ok(mut calls) = self.0.calls.lock() {
            calls[self.1].ended = Some(Instant::now());
        }
    }
}

async fn connect(address: &str) -> Option<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}:{BEHIND}")).ok()?;
    endpoint.connect().await.ok()
}

async fn is_well(member: &pb::Member) -> bool {
    let status = async {
        let url = member.client_urls.first()?;
        let address = url.strip_prefix("http://")?.split(':').next()?;
        let mut client = MaintenanceClient::new(connect(address).await?);
        Some(client.status(pb::StatusRequest {}).await.ok()?.into_inner())
    };
    let status = tokio::time::timeout(ASK, status).await.ok().flatten();
    status.is_some_and(|status| status.leader != 0)
}

async fn members(address: &str) -> Option<Vec<pb::Member>> {
    let channel = connect(address).await?;
    let request = pb::MemberListRequest { linearizable: true };
    let list = ClusterClient::new(channel)
        .member_list(request)
        .await
        .ok()?;
    Some(list.into_inner().members)
}

fn never(never: std::convert::Infallible) -> hyper::Error {
    match never {}
}

/// What gRPC says of a server that does not answer.
fn unavailable() -> Answer {
    let body = Empty::new().map_err(never).boxed_unsync();
    let mut answer = Response::new(body);
    let headers = answer.headers_mut();
    let grpc = HeaderValue::from_static("application/grpc");
    headers.insert(http::header::CONTENT_TYPE, grpc);
    headers.insert("grpc-status", HeaderValue::from_static("14"));
    let closed = HeaderValue::from_static("the door is closed");
    headers.insert("grpc-message", closed);
    answer
}

/// The inode of the socket from which a connection of this machine comes.
fn inode(from: SocketAddr, to: SocketAddr) -> Option<String> {
    let (from, to) = (hexadecimal(from)?, hexadecimal(to)?);
    let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
    table.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let ends = words.get(1) == Some(&from.as_str()) && words.get(2) == Some(&to.as_str());
        ends.then(|| words.get(9).map(|inode| (*inode).to_owned()))?
    })
}

/// As /proc/net/tcp writes it: the address as one number of this machine, the port.
fn hexadecimal(address: SocketAddr) -> Option<String> {
    let SocketAddr::V4(address) = address else {
        return None;
    };
    let number = u32::from_ne_bytes(address.ip().octets());
    Some(format!("{number:08X}:{:04X}", address.port()))
}

fn holds(process: u32, socket: &str) -> bool {
    let Ok(descriptors) = std::fs::read_dir(format!("/proc/{process}/fd")) else {
        return false;
    };
    descriptors
        .flatten()
        .filter_map(|one| std::fs::read_link(one.path()).ok())
        .any(|link| link.as_os_str() == socket)
}
