//! Calls that are refused: what etcd refuses, ours refuses in the same words; floods and callers in
//! the same millisecond change nothing about that.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use api::etcdserverpb as pb;
use api::etcdserverpb::cluster_client::ClusterClient;
use testkit::{Cluster, Kind, Spec, left_out};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use super::{MISSING, NOBODY, wait_connected};
use crate::documented;

pub const HEADING: &str = "### Calls that cannot be right, or come at the wrong moment";

/// The row of one who comes second.
const ADDED_BY_ANOTHER: &str = "add a member that another caller has just added";

/// The row of one who removes where nothing can be decided.
const QUORUM_LOST: &str =
    "remove a dead one of three while a leader that has lost its quorum still leads";

/// What a caller waits.
const PATIENCE: Duration = Duration::from_secs(8);

async fn client(cluster: &Cluster, index: usize) -> ClusterClient<Channel> {
    let url = cluster.members[index].client_url.clone();
    let endpoint = Endpoint::from_shared(url).expect("a URL");
    // etcd lets a membership call wait for ever that raft has dropped beside another.
    let endpoint = endpoint.timeout(PATIENCE);
    ClusterClient::new(endpoint.connect().await.expect("it serves"))
}

fn said<T>(answer: Result<T, Status>) -> String {
    match answer {
        Ok(_) => "ok".to_owned(),
        Err(status) => format!("{:?} {}", status.code(), status.message()),
    }
}

async fn add(client: &mut ClusterClient<Channel>, url: &str) -> Result<pb::Member, Status> {
    let request = pb::MemberAddRequest {
        peer_urls: vec![url.to_owned()],
        is_learner: true,
    };
    let answer = client.member_add(request).await?.into_inner();
    Ok(answer.member.expect("the added member"))
}

/// The same calls on etcd and on ours; each row of the document that is not produced elsewhere.
#[test]
fn calls_that_cannot_be_right_are_refused_as_etcd_refuses_them() {
    let spec = |kind| Spec::of(kind, 1).flag("--max-learners=2");
    let etcd = Cluster::start(&spec(Kind::Etcd));
    let ours = Cluster::start(&spec(Kind::Quorate));
    let (Some(etcd), Some(ours)) = (etcd, ours) else {
        return left_out("membership_calls", MISSING);
    };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let (etcd, ours) = runtime.block_on(async { (calls(&etcd).await, calls(&ours).await) });
    let mut wrong = Vec::new();
    let rows = documented::table("membership.md", HEADING);
    for (situation, answer) in &ours {
        let row = rows.iter().find(|row| row[0] == *situation);
        let Some(row) = row else {
            wrong.push(format!("{situation}: not in the document"));
            continue;
        };
        let (_, text) = answer.split_once(' ').unwrap_or(("", answer));
        if !documented::is(text, &row[1]) {
            wrong.push(format!("{situation}: expected {}, said {answer}", row[1]));
        }
        if !text.starts_with("quorate: ") && etcd[situation] != *answer {
            wrong.push(format!(
                "{situation}: etcd {}, ours {answer}",
                etcd[situation]
            ));
        }
    }
    // What `learners.rs`, `mixed.rs` and other tests here produce.
    let elsewhere = [
        "promote a learner that was cut off",
        "promote a learner whose disk is full",
        super::mixed::HANGS,
        super::mixed::NOT_PROBED,
        super::mixed::JUST_BACK,
        QUORUM_LOST,
        ADDED_BY_ANOTHER,
    ];
    for row in &rows {
        assert!(!row[2].is_empty(), "no remedy: {row:?}");
        if !ours.contains_key(row[0].as_str()) && !elsewhere.contains(&row[0].as_str()) {
            wrong.push(format!("{}: no call produces it", row[0]));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

async fn calls(cluster: &Cluster) -> BTreeMap<&'static str, String> {
    let mut client = client(cluster, 0).await;
    let mut seen = BTreeMap::new();
    let list = client.member_list(pb::MemberListRequest { linearizable: true });
    let voter = list.await.expect("a list").into_inner().members[0].clone();
    let removed = add(&mut client, "http://127.0.0.1:2")
        .await
        .expect("a learner")
        .id;
    let remove = pb::MemberRemoveRequest { id: removed };
    client.member_remove(remove).await.expect("it may go");
    for (situation, id) in [
        ("an ID that is unknown", 1),
        ("an ID that is zero", 0),
        ("an ID that was removed", removed),
    ] {
        let peer_urls = vec![NOBODY.to_owned()];
        let answers = [
            said(client.member_remove(pb::MemberRemoveRequest { id }).await),
            said(client.member_promote(pb::MemberPromoteRequest { id }).await),
            said(
                client
                    .member_update(pb::MemberUpdateRequest { id, peer_urls })
                    .await,
            ),
        ];
        assert!(
            answers.iter().all(|answer| *answer == answers[0]),
            "{situation}: {answers:?}"
        );
        seen.insert(situation, answers[0].clone());
    }
    let id = voter.id;
    seen.insert(
        "promote a voter",
        said(client.member_promote(pb::MemberPromoteRequest { id }).await),
    );
    seen.insert(
        "remove the last voter",
        said(client.member_remove(pb::MemberRemoveRequest { id }).await),
    );
    seen.insert(
        "peer URLs that are none",
        said(add(&mut client, "something").await),
    );
    seen.insert(
        "a peer URL of another member",
        said(add(&mut client, &voter.peer_urls[0]).await),
    );
    let learner = add(&mut client, NOBODY).await.expect("a learner").id;
    let promote = pb::MemberPromoteRequest { id: learner };
    seen.insert(
        "promote a learner that has not started",
        said(client.member_promote(promote).await),
    );
    add(&mut client, "http://127.0.0.1:3")
        .await
        .expect("a learner");
    seen.insert(
        "one learner more than `--max-learners`",
        said(add(&mut client, "http://127.0.0.1:4").await),
    );
    if cluster.members[0].kind == Kind::Quorate {
        for (situation, digest) in [
            (
                "a membership that is expected and is not",
                "0123456789abcdef",
            ),
            ("an expected membership that cannot be read", "something"),
        ] {
            let mut request = Request::new(pb::MemberRemoveRequest { id: learner });
            let digest = digest.parse().expect("ASCII");
            request
                .metadata_mut()
                .insert("quorate-expected-membership", digest);
            seen.insert(situation, said(client.member_remove(request).await));
        }
    }
    seen
}

/// Sixteen callers at once want the same member in: one gets it, the others hear that it is there.
#[test]
fn of_callers_in_the_same_millisecond_one_decides() {
    let etcd = Cluster::start(&Spec::of(Kind::Etcd, 1));
    let ours = Cluster::start(&Spec::of(Kind::Quorate, 3));
    let (Some(etcd), Some(ours)) = (etcd, ours) else {
        return left_out("membership_same_millisecond", MISSING);
    };
    wait_connected(&ours);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let etcd = runtime.block_on(at_once(&etcd));
    let ours = runtime.block_on(at_once(&ours));
    assert_eq!(ours.get("ok"), Some(&1), "etcd {etcd:?}, ours {ours:?}");
    assert_eq!(etcd.get("ok"), Some(&1), "etcd {etcd:?}, ours {ours:?}");
    // The ID is made of URL and second: at the turn of a second it is another ID with the same URL.
    for answer in ours.keys().filter(|answer| *answer != "ok") {
        let text = answer.strip_prefix("FailedPrecondition ");
        let text = text.unwrap_or_else(|| panic!("{answer}; etcd says {etcd:?}"));
        let known = [ADDED_BY_ANOTHER, "a peer URL of another member"];
        let known = known.map(|row| super::documented_as(text, row));
        assert!(known.iter().any(Result::is_ok), "{known:?}");
    }
}

async fn at_once(cluster: &Cluster) -> BTreeMap<String, usize> {
    let mut callers = tokio::task::JoinSet::new();
    for n in 0..16 {
        let mut client = client(cluster, n % cluster.members.len()).await;
        callers.spawn(async move { said(add(&mut client, NOBODY).await) });
    }
    let mut answers = BTreeMap::new();
    while let Some(answer) = callers.join_next().await {
        *answers.entry(answer.expect("a caller")).or_default() += 1;
    }
    answers
}

/// Thousands of calls that cannot be granted, refused by the rule, by the leader's look at a learner,
/// and by what etcd asks at apply: each is answered, no log fills, and the cluster serves meanwhile.
#[test]
fn a_flood_of_calls_is_refused_politely() {
    let Some(mut cluster) = Cluster::start(&Spec::of(Kind::Quorate, 3)) else {
        return left_out("membership_flood", MISSING);
    };
    wait_connected(&cluster);
    let leader = cluster.leader();
    let asked = [leader, (leader + 2) % 3];
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let taken = cluster.members[leader].peer_url.clone();
    runtime.block_on(async {
        let mut one = client(&cluster, leader).await;
        let learner = add(&mut one, NOBODY).await.expect("a learner").id;
        let not_ready = "FailedPrecondition etcdserver: can only promote a learner member which is in sync with leader";
        flood(&cluster, asked, not_ready, Call::Promote(learner)).await;
        let exists = "FailedPrecondition etcdserver: Peer URLs already exists";
        flood(&cluster, asked, exists, Call::Add(taken)).await;
    });
    cluster.members[(leader + 1) % 3].kill();
    let unhealthy = "Unavailable etcdserver: unhealthy cluster";
    let call = Call::Add("http://127.0.0.1:2".to_owned());
    runtime.block_on(flood(&cluster, asked, unhealthy, call));
}

#[derive(Clone)]
enum Call {
    Promote(u64),
    /// A learner.
    Add(String),
}

/// All at once at two members, which say so in few lines.
async fn flood(cluster: &Cluster, asked: [usize; 2], expected: &'static str, call: Call) {
    const CALLERS: usize = 50;
    const EACH: usize = 20;
    let lines = || asked.map(|index| cluster.members[index].log_text().lines().count());
    let before = lines();
    let began = Instant::now();
    let mut callers = tokio::task::JoinSet::new();
    for n in 0..CALLERS {
        let mut client = client(cluster, asked[n % 2]).await;
        let call = call.clone();
        callers.spawn(async move {
            for _ in 0..EACH {
                let answer = match &call {
                    Call::Promote(id) => {
                        let promote = pb::MemberPromoteRequest { id: *id };
                        said(client.member_promote(promote).await)
                    }
                    Call::Add(url) => said(add(&mut client, url).await),
                };
                assert_eq!(answer, expected);
            }
        });
    }
    let put = cluster.members[asked[1]].etcdctl();
    let served = tokio::task::spawn_blocking(move || put.ok(&["put", "still", "alive"]));
    served.await.expect("it serves meanwhile");
    callers.join_all().await;
    let took = began.elapsed();
    assert!(took < Duration::from_secs(20), "{expected}: {took:?}");
    for (before, after) in before.into_iter().zip(lines()) {
        let more = after - before;
        let calls = CALLERS * EACH;
        assert!(more < 80, "{expected}: {more} lines for {calls} calls");
    }
}

/// Of two voters and one the removal of a dead one could never be committed.
#[test]
fn with_two_of_three_dead_a_removal_is_refused_at_once() {
    // The leader stays for five seconds after it has lost its quorum.
    let spec = |kind| {
        Spec::of(kind, 3)
            .flag("--heartbeat-interval=500")
            .flag("--election-timeout=5000")
    };
    let etcd = Cluster::start(&spec(Kind::Etcd));
    let ours = Cluster::start(&spec(Kind::Quorate));
    let (Some(etcd), Some(ours)) = (etcd, ours) else {
        return left_out("membership_two_dead", MISSING);
    };
    let ask = |mut cluster: Cluster| {
        wait_connected(&cluster);
        let leader = cluster.leader();
        let dead = (leader + 1) % 3;
        let etcdctl = cluster.members[leader].etcdctl();
        let id = super::id_of(&etcdctl, &cluster.members[dead].peer_url);
        cluster.members[dead].kill();
        cluster.members[(leader + 2) % 3].kill();
        let began = Instant::now();
        let output = etcdctl.run(&["--command-timeout=3s", "member", "remove", &id]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        (began.elapsed(), text)
    };
    let (etcd, ours) = std::thread::scope(|scope| {
        let etcd = scope.spawn(|| ask(etcd));
        let ours = ask(ours);
        (etcd.join().expect("etcd's half"), ours)
    });
    // The call's deadline is the server's too: either may be the first to say that it passed.
    assert!(etcd.0 >= Duration::from_secs(2), "{etcd:?}");
    let (took, said) = ours;
    assert!(took < Duration::from_secs(2), "{took:?}: {said}");
    let (_, text) = said.split_once("Error: ").unwrap_or(("", &said));
    super::assert_documented(text.trim_end(), QUORUM_LOST);
}
