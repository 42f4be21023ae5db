//! `quorate-expected-membership`: a call that is made for one membership only.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use api::etcdserverpb as pb;
use api::etcdserverpb::cluster_client::ClusterClient;
use testkit::{Cluster, Kind, Member, Spec, eventually, left_out, tool};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use super::{MISSING, NOBODY};

const METADATA: &str = "quorate-expected-membership";

#[test]
fn a_call_goes_through_only_for_the_membership_that_it_expects() {
    let Some(cluster) = Cluster::start(&Spec::of(Kind::Quorate, 3)) else {
        return left_out("membership_digest", MISSING);
    };
    super::wait_connected(&cluster);
    let leader = cluster.leader();
    let follower = (leader + 1) % 3;

    // A follower of ours asks our leader on the peer port, and neither judges nor forwards as etcd does.
    let etcdctl = cluster.members[follower].etcdctl();
    // An ID is made of URL and second, and a removed one never comes back: not the URL of below.
    let other = "http://127.0.0.1:2";
    let url = format!("--peer-urls={other}");
    assert_eq!(
        super::verdict(&etcdctl, &["add", "l", "--learner", &url]),
        "ok"
    );
    let id = super::id_of(&etcdctl, other);
    assert_eq!(super::verdict(&etcdctl, &["remove", &id]), "ok");
    let of_leader = cluster.members[leader].log_text();
    let judged = |step: &str| {
        let mut lines = of_leader.lines();
        lines.any(|line| line.contains(step) && line.contains("\"how\":\"as leader\""))
    };
    assert!(judged("add a learner: allowed"), "{of_leader}");
    assert!(judged(&format!("remove {id}: allowed")), "{of_leader}");
    assert!(!of_leader.contains("forwarded-by"), "{of_leader}");
    let of_follower = cluster.members[follower].log_text();
    assert!(!of_follower.contains("as follower"), "{of_follower}");
    // How it knows that the leader is one of ours.
    let peer = cluster.members[leader]
        .peer_url
        .trim_start_matches("http://");
    let version = super::http_get(peer, "/version");
    assert!(version.contains("\"quorate\":"), "{version}");

    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let mut clients = [
            connect(&cluster.members[leader]).await,
            connect(&cluster.members[follower]).await,
        ];
        let first = digest(&mut clients[0]).await;
        assert_eq!(digest(&mut clients[1]).await, first);
        assert_eq!(by_documented_command(&cluster.members[follower]), first);

        let bad = add(&mut clients[1], "something else")
            .await
            .expect_err("it cannot be read");
        assert_eq!(bad.code(), Code::InvalidArgument);
        assert!(
            bad.message().contains("16 hexadecimal digits"),
            "{}",
            bad.message()
        );

        // At the follower, which passes the condition on, and at the leader.
        for client in &mut clients {
            let stale = add(client, "0123456789abcdef")
                .await
                .expect_err("it is stale");
            assert_eq!(stale.code(), Code::FailedPrecondition);
            let words = format!("the membership is {first}, expected 0123456789abcdef");
            assert!(stale.message().contains(&words), "{}", stale.message());
        }

        // Two callers who saw the same: one of them decides.
        let [one, two] = &mut clients;
        let (one, two) = tokio::join!(add(one, &first), add(two, &first));
        let (added, refused) = match (one, two) {
            (Ok(added), Err(refused)) | (Err(refused), Ok(added)) => (added, refused),
            both => panic!("one of them must win: {both:?}"),
        };
        assert_eq!(refused.code(), Code::FailedPrecondition);
        assert!(
            refused
                .message()
                .contains("list the members and decide again"),
            "{refused:?}"
        );

        let second = digest(&mut clients[1]).await;
        assert_ne!(second, first);
        assert_eq!(by_documented_command(&cluster.members[leader]), second);

        let id = added.member.expect("the added member").id;
        let mut remove = Request::new(pb::MemberRemoveRequest { id });
        expecting(&mut remove, &second);
        clients[1]
            .member_remove(remove)
            .await
            .expect("nothing has changed since");
        assert_eq!(digest(&mut clients[0]).await, first);
    });
}

/// A call that waits behind another change keeps its condition when its caller has gone: the change
/// before it makes that false, and nothing is appended.
#[test]
fn what_a_held_call_expects_is_asked_when_it_is_appended() {
    let spec = Spec::of(Kind::Quorate, 1)
        .flag("--strict-reconfig-check=false")
        .flag("--max-learners=2");
    let Some(mut cluster) = Cluster::start(&spec) else {
        return left_out("membership_held", MISSING);
    };
    let place = cluster.add_place(Kind::Quorate, &spec.flags);
    let (name, url) = (
        place.name.clone(),
        format!("--peer-urls={}", place.peer_url),
    );
    let etcdctl = cluster.members[0].etcdctl();
    etcdctl.ok(&["member", "add", &name, &url]);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let (first, late) = ("http://127.0.0.1:1", "http://127.0.0.1:2");
    let mut client = runtime.block_on(connect(&cluster.members[0]));
    let request = pb::MemberListRequest {
        linearizable: false,
    };
    let list = runtime.block_on(client.member_list(request));
    let list = list.expect("a list of members");
    let seen = list.metadata().get(METADATA).expect("the digest");
    let seen = seen.to_str().expect("hexadecimal digits").to_owned();
    // Of two voters one has not started: the first call cannot be decided.
    let mut other = client.clone();
    let waiting = runtime.spawn(async move { add_at(&mut other, first, None).await });
    eventually("the first call", Duration::from_secs(10), || {
        let log = cluster.members[0].log_text();
        let judged = log.contains("add a learner: allowed");
        judged.then_some(()).ok_or(log)
    });
    runtime.block_on(async {
        let call = add_at(&mut client, late, Some(&seen));
        let given_up = tokio::time::timeout(Duration::from_millis(300), call).await;
        assert!(given_up.is_err(), "it was decided: {given_up:?}");
    });
    cluster.members[1].start();
    let added = runtime.block_on(waiting).expect("a caller");
    if let Err(late) = &added {
        // The second member took its time; the change is decided all the same.
        assert!(late.message().contains("timed out"), "{late:?}");
    }
    // Whatever was held is decided before a change that comes later.
    let id = eventually("the first change", Duration::from_secs(10), || {
        let ids = super::ids(&etcdctl);
        let found = ids.iter().find(|(_, url)| url == first);
        found.map(|(id, _)| id.clone()).ok_or(format!("{ids:?}"))
    });
    assert_eq!(super::verdict(&etcdctl, &["remove", &id]), "ok");
    let urls: Vec<String> = super::ids(&etcdctl)
        .into_iter()
        .map(|(_, url)| url)
        .collect();
    assert!(!urls.iter().any(|url| url == late), "{urls:?}");
}

/// Promotion on request: the call says once that the learner shall vote when it can.
#[test]
fn a_learner_is_promoted_when_it_is_ready_if_that_was_asked_for() {
    let Some(mut cluster) = Cluster::start(&Spec::of(Kind::Quorate, 1)) else {
        return left_out("membership_promote_when_ready", MISSING);
    };
    let peer_url = cluster.add_place(Kind::Quorate, &[]).peer_url.clone();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let mut client = connect(&cluster.members[0]).await;
        let mut request = Request::new(pb::MemberAddRequest {
            peer_urls: vec![peer_url],
            is_learner: true,
        });
        let metadata = request.metadata_mut();
        metadata.insert("quorate-promote-when-ready", "true".parse().expect("ASCII"));
        client
            .member_add(request)
            .await
            .expect("a learner may be added");
        cluster.members[1].start();
    });
    let etcdctl = cluster.members[0].etcdctl();
    eventually("the promotion", Duration::from_secs(20), || {
        let json = etcdctl.json(&["member", "list"]);
        let learners = json["members"].as_array().into_iter().flatten();
        let learners = learners
            .filter(|member| member["isLearner"] == true)
            .count();
        if learners == 0 {
            Ok(())
        } else {
            Err(json.to_string())
        }
    });
}

async fn connect(member: &Member) -> ClusterClient<Channel> {
    let endpoint = Endpoint::try_from(member.client_url.clone()).expect("a URL");
    ClusterClient::new(endpoint.connect().await.expect("the member serves"))
}

async fn digest(client: &mut ClusterClient<Channel>) -> String {
    let request = pb::MemberListRequest { linearizable: true };
    let response = client
        .member_list(request)
        .await
        .expect("a list of members");
    let digest = response
        .metadata()
        .get(METADATA)
        .expect("the digest goes along");
    digest.to_str().expect("hexadecimal digits").to_owned()
}

async fn add(
    client: &mut ClusterClient<Channel>,
    expected: &str,
) -> Result<pb::MemberAddResponse, Status> {
    add_at(client, NOBODY, Some(expected)).await
}

async fn add_at(
    client: &mut ClusterClient<Channel>,
    url: &str,
    expected: Option<&str>,
) -> Result<pb::MemberAddResponse, Status> {
    let mut request = Request::new(pb::MemberAddRequest {
        peer_urls: vec![url.to_owned()],
        is_learner: true,
    });
    if let Some(expected) = expected {
        expecting(&mut request, expected);
    }
    Ok(client.member_add(request).await?.into_inner())
}

/// A learner added by one call to one member.
pub async fn add_expecting(
    member: &Member,
    expected: &str,
) -> Result<pb::MemberAddResponse, Status> {
    add(&mut connect(member).await, expected).await
}

fn expecting<T>(request: &mut Request<T>, digest: &str) {
    let value = digest.parse().expect("it is ASCII");
    request.metadata_mut().insert(METADATA, value);
}

/// Runs the command that `docs/membership.md` gives, as it stands there.
fn by_documented_command(member: &Member) -> String {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/membership.md");
    let docs = std::fs::read_to_string(docs).expect("the document");
    let (_, rest) = docs.split_once("```sh\n").expect("a block of commands");
    let (command, _) = rest.split_once("```").expect("the end of the block");
    let tools = tool("etcdctl").expect("looked for when the cluster was made");
    let folder = tools.parent().expect("it lies in a folder").to_owned();
    let path = std::env::var("PATH").unwrap_or_default();
    let output = Command::new("sh")
        .args(["-c", command])
        .env("PATH", format!("{}:{path}", folder.display()))
        .env("ETCDCTL_ENDPOINTS", member.endpoint())
        .output()
        .expect("sh runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout)
        .trim_end()
        .to_owned()
}
