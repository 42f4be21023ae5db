//! Bad input: what etcd says to it, ours says too, code and text.

use api::etcdserverpb as pb;
use api::etcdserverpb::cluster_client::ClusterClient;
use testkit::{Cluster, Kind, Spec, left_out};
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use super::MISSING;

#[test]
fn bad_urls_and_bad_ids_are_refused_as_etcd_refuses_them() {
    let etcd = Cluster::start(&Spec::of(Kind::Etcd, 1));
    let ours = Cluster::start(&Spec::of(Kind::Quorate, 1));
    let (Some(etcd), Some(ours)) = (etcd, ours) else {
        return left_out("membership_bad", MISSING);
    };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let mut etcd = connect(&etcd).await;
        let mut ours = connect(&ours).await;
        let thousand: Vec<String> = (1..=1000).map(|n| format!("http://a:{n}")).collect();
        let twice = ["http://a:1", "http://a:1"].map(str::to_owned).to_vec();
        let mixed = ["http://a:1", "https://b:1"].map(str::to_owned).to_vec();
        let mut lists = vec![vec![], thousand, twice, mixed];
        for url in [
            "",
            " ",
            "a",
            "a:1",
            "//a:1",
            "http://",
            "http://a",
            "http://:1",
            "http://a:1/path",
            "http://a:1?x",
            "ftp://a:1",
            "http://a:x",
            "http://a:99999",
            "http://[::1:1",
            "http://a b:1",
            "http://%zz:1",
            "\0",
        ] {
            lists.push(vec![url.to_owned()]);
        }
        lists.push(vec![format!("http://{}:1", "a".repeat(100_000))]);
        let mut wrong = Vec::new();
        for urls in lists {
            let shown = format!("{:.60}", format!("{urls:?}"));
            let said = [
                add(&mut etcd, urls.clone()).await,
                add(&mut ours, urls).await,
            ];
            if said[0] != said[1] {
                wrong.push(format!(
                    "add {shown}\n  etcd {}\n  ours {}",
                    said[0], said[1]
                ));
            }
        }
        for id in [0, 1, u64::MAX] {
            for (what, said) in [
                (
                    "remove",
                    [remove(&mut etcd, id).await, remove(&mut ours, id).await],
                ),
                (
                    "promote",
                    [promote(&mut etcd, id).await, promote(&mut ours, id).await],
                ),
                (
                    "update",
                    [update(&mut etcd, id).await, update(&mut ours, id).await],
                ),
            ] {
                if said[0] != said[1] {
                    wrong.push(format!(
                        "{what} {id}\n  etcd {}\n  ours {}",
                        said[0], said[1]
                    ));
                }
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    });
}

async fn connect(cluster: &Cluster) -> ClusterClient<Channel> {
    let endpoint = Endpoint::try_from(cluster.members[0].client_url.clone()).expect("a URL");
    ClusterClient::new(endpoint.connect().await.expect("the member serves"))
}

fn said<T>(result: Result<T, Status>) -> String {
    match result {
        Ok(_) => "ok".to_owned(),
        Err(status) => format!("{:?} {}", status.code(), status.message()),
    }
}

/// A member that was added after all is removed at once: the next list is asked on the same ground.
async fn add(client: &mut ClusterClient<Channel>, peer_urls: Vec<String>) -> String {
    let request = pb::MemberAddRequest {
        peer_urls,
        is_learner: true,
    };
    let added = client.member_add(request).await;
    if let Ok(added) = &added {
        let id = added
            .get_ref()
            .member
            .as_ref()
            .expect("the added member")
            .id;
        let removed = client.member_remove(pb::MemberRemoveRequest { id }).await;
        removed.expect("a learner may always go");
    }
    said(added)
}

async fn remove(client: &mut ClusterClient<Channel>, id: u64) -> String {
    said(client.member_remove(pb::MemberRemoveRequest { id }).await)
}

async fn promote(client: &mut ClusterClient<Channel>, id: u64) -> String {
    said(client.member_promote(pb::MemberPromoteRequest { id }).await)
}

async fn update(client: &mut ClusterClient<Channel>, id: u64) -> String {
    let peer_urls = vec!["http://a:1".to_owned()];
    said(
        client
            .member_update(pb::MemberUpdateRequest { id, peer_urls })
            .await,
    )
}
