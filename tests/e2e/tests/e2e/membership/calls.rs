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

pub const HEADING: &str = "### Calls that cannot be right";

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
    // What `learners.rs` produces.
    let elsewhere = [
        "promote a learner that was cut off",
        "promote a learner whose disk is full",
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
    for answer in ours.keys() {
        assert!(
            [
                "ok",
                "FailedPrecondition etcdserver: member ID already exist",
                "FailedPrecondition etcdserver: Peer URLs already exists"
            ]
            .contains(&answer.as_str()),
            "{answer}; etcd says {etcd:?}"
        );
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

/// Two thousand calls that cannot be granted: each is answered, the log stays readable, and the
/// cluster serves meanwhile.
#[test]
fn a_flood_of_calls_is_refused_politely() {
    const CALLERS: usize = 50;
    const EACH: usize = 40;
    let Some(mut cluster) = Cluster::start(&Spec::of(Kind::Quorate, 3)) else {
        return left_out("membership_flood", MISSING);
    };
    wait_connected(&cluster);
    let leader = cluster.leader();
    cluster.members[(leader + 1) % 3].kill();
    let follower = (leader + 2) % 3;
    let before = cluster.members[leader].log_text().lines().count();
    let began = Instant::now();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let answers = runtime.block_on(async {
        let mut callers = tokio::task::JoinSet::new();
        for n in 0..CALLERS {
            let mut client = client(&cluster, [leader, follower][n % 2]).await;
            callers.spawn(async move {
                let mut answers = Vec::new();
                for _ in 0..EACH {
                    answers.push(said(add(&mut client, NOBODY).await));
                }
                answers
            });
        }
        let put = cluster.members[follower].etcdctl();
        let served = tokio::task::spawn_blocking(move || put.ok(&["put", "still", "alive"]));
        served.await.expect("it serves meanwhile");
        callers.join_all().await.concat()
    });
    assert_eq!(answers.len(), CALLERS * EACH);
    for answer in &answers {
        assert_eq!(answer, "Unavailable etcdserver: unhealthy cluster");
    }
    let took = began.elapsed();
    assert!(
        took < Duration::from_secs(20),
        "{took:?} for {} calls",
        answers.len()
    );
    let lines = cluster.members[leader].log_text().lines().count() - before;
    assert!(lines < 100, "{lines} lines for {} calls", answers.len());
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
    for words in [
        "quorate: remove ",
        "3 voters, 1 healthy, 2 needed",
        "then 2 voters, 1 healthy, 2 needed",
    ] {
        assert!(said.contains(words), "{words:?} is not in {said}");
    }
}
