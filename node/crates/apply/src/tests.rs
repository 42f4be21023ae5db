//! What the recording in `tests/replay.rs` cannot show: full stores, older and newer members'
//! entries, damage, and what the server is told to do.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use api::etcdserverpb as pb;
use api::membershippb;
use backend::{Backend, Bucket, Committer, Options};
use lease::{LeaseId, Renewal};
use membership::{Applied, Cluster, MemberId, Membership, Version, parse_initial_cluster};
use mvcc::RangeOptions;
use mvcc::ReadView;
use pb::request_op::Request;
use pb::{AlarmType, InternalRaftRequest};
use prost::Message;
use raftpb::conf::{Change, Member};
use raftpb::{Entry, EntryType};
use seams::MemDisk;

use crate::quota::Quota;
use crate::{Applier, Config, Fatal, Outcome, Response, read_only_txn};

struct Node {
    applier: Applier,
    committer: Committer,
    index: u64,
}

const NOW: Duration = Duration::from_secs(100);

fn database() -> (Backend, backend::Writer, Committer) {
    let options = Options {
        growth_bytes: 1 << 16,
        map_bytes: 1 << 20,
        ..Options::default()
    };
    Backend::open(Arc::new(MemDisk::new()), Path::new("db"), options).expect("a new database")
}

fn config() -> Config {
    Config {
        quota: Quota::from_flag(0),
        lease: lease::Config {
            ttl_seconds_min: 2,
            checkpoint_interval: None,
        },
        persist_checkpoints: false,
        server_version: Version::new(3, 7),
    }
}

fn node_with(config: Config) -> Node {
    let (backend, writer, committer) = database();
    let initial = parse_initial_cluster("a=http://a:1,b=http://b:1").expect("a cluster");
    let mut membership = Membership::seed(&initial, "t", 1).expect("two members");
    let local = membership.member_by_name("a").expect("a member").id;
    membership.set_ids(local, membership.cluster_id());
    let bootstrap = membership::bootstrap_entries(&membership);
    let applier = Applier::open(backend, writer, Arc::new(Cluster::new(membership)), config)
        .expect("a new database");
    let mut node = Node {
        applier,
        committer,
        index: 0,
    };
    for entry in bootstrap {
        node.index += 1;
        let outcome = node
            .applier
            .apply_entry(&entry, &|_| false, NOW)
            .expect("a bootstrap entry");
        assert!(outcome.conf_change.expect("a conf change").result.is_ok());
    }
    node
}

fn node() -> Node {
    node_with(config())
}

impl Node {
    fn entry(&mut self, entry_type: EntryType, data: Vec<u8>) -> Result<Outcome, Fatal> {
        self.index += 1;
        let entry = Entry {
            entry_type: entry_type.into(),
            term: 2,
            index: self.index,
            data: data.into(),
        };
        self.applier.apply_entry(&entry, &|_| true, NOW)
    }

    fn request(&mut self, request: InternalRaftRequest) -> Outcome {
        let header = Some(pb::RequestHeader {
            id: 7,
            ..pb::RequestHeader::default()
        });
        let request = InternalRaftRequest { header, ..request };
        let outcome = self
            .entry(EntryType::EntryNormal, request.encode_to_vec())
            .expect("a request");
        assert_eq!(
            self.applier.applied().index,
            self.index,
            "an entry is done, whatever came of it"
        );
        outcome
    }

    fn conf(&mut self, change: &Change) -> Outcome {
        let data = change.to_conf_change(9).encode_to_vec();
        self.entry(EntryType::EntryConfChange, data)
            .expect("a conf change")
    }

    fn put(&mut self, put: pb::PutRequest) -> Outcome {
        self.request(InternalRaftRequest {
            put: Some(put),
            ..InternalRaftRequest::default()
        })
    }

    fn alarm(&mut self, action: pb::alarm_request::AlarmAction, alarm: AlarmType) -> Outcome {
        let alarm = pb::AlarmRequest {
            action: action.into(),
            member_id: 3,
            alarm: alarm.into(),
        };
        self.request(InternalRaftRequest {
            alarm: Some(alarm),
            ..InternalRaftRequest::default()
        })
    }

    fn value(&self, key: &str) -> Option<String> {
        let found = self
            .applier
            .mvcc()
            .range(&RangeOptions::key(key.as_bytes()))
            .expect("a read");
        found
            .kvs
            .first()
            .map(|kv| String::from_utf8_lossy(&kv.value).into_owned())
    }
}

fn put(key: &str, value: &str) -> pb::PutRequest {
    pb::PutRequest {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        ..pb::PutRequest::default()
    }
}

fn error(outcome: &Outcome) -> Option<api::Error> {
    outcome
        .result
        .as_ref()
        .and_then(|result| result.as_ref().err())
        .cloned()
}

#[test]
fn a_full_store_asks_for_the_alarm_once_and_then_refuses() {
    let mut node = node_with(Config {
        quota: Quota::from_flag(1),
        ..config()
    });
    let outcome = node.put(put("a", "1"));
    assert_eq!(error(&outcome), Some(api::Error::NoSpace));
    assert!(outcome.hints.raise_no_space);
    assert_eq!(
        node.value("a").as_deref(),
        Some("1"),
        "members with room did it, so it is done"
    );
    let nested = pb::RequestOp {
        request: Some(Request::RequestPut(put("t", "1"))),
    };
    let txn = InternalRaftRequest {
        txn: Some(pb::TxnRequest {
            success: vec![nested],
            ..pb::TxnRequest::default()
        }),
        ..InternalRaftRequest::default()
    };
    let outcome = node.request(txn.clone());
    assert_eq!(error(&outcome), Some(api::Error::NoSpace));
    assert!(outcome.hints.raise_no_space && node.value("t").is_some());
    let grant = InternalRaftRequest {
        lease_grant: Some(pb::LeaseGrantRequest { id: 5, ttl: 60 }),
        ..InternalRaftRequest::default()
    };
    let outcome = node.request(grant.clone());
    assert!(outcome.hints.raise_no_space && node.applier.lessor().contains(LeaseId(5)));

    let outcome = node.alarm(pb::alarm_request::AlarmAction::Activate, AlarmType::Nospace);
    assert!(outcome.hints.alarms_changed && node.applier.alarms().is_raised(AlarmType::Nospace));
    let outcome = node.put(put("b", "1"));
    assert_eq!(error(&outcome), Some(api::Error::NoSpace));
    assert!(!outcome.hints.raise_no_space);
    assert_eq!(node.value("b"), None);
    assert_eq!(error(&node.request(grant)), Some(api::Error::NoSpace));
    let revision = node.applier.mvcc().revision();
    assert_eq!(error(&node.request(txn)), Some(api::Error::NoSpace));
    assert_eq!(node.applier.mvcc().revision(), revision);
    // What frees space is still done.
    let delete = pb::DeleteRangeRequest {
        key: "a".into(),
        ..pb::DeleteRangeRequest::default()
    };
    let outcome = node.request(InternalRaftRequest {
        delete_range: Some(delete),
        ..InternalRaftRequest::default()
    });
    assert_eq!((error(&outcome), node.value("a")), (None, None));
    let empty = InternalRaftRequest {
        txn: Some(pb::TxnRequest::default()),
        ..InternalRaftRequest::default()
    };
    assert_eq!(error(&node.request(empty)), None);
}

#[test]
fn alarms_are_kept_in_the_database() {
    use pb::alarm_request::AlarmAction::{Activate, Deactivate, Get};
    let mut node = node();
    node.alarm(Activate, AlarmType::Corrupt);
    let outcome = node.alarm(Get, AlarmType::None);
    let Some(Ok(Response::Alarm(response))) = outcome.result else {
        panic!("{outcome:?}")
    };
    assert_eq!(
        response.alarms,
        [pb::AlarmMember {
            member_id: 3,
            alarm: AlarmType::Corrupt.into()
        }]
    );
    assert!(!outcome.hints.alarms_changed);
    let loaded = crate::Alarms::load(&node.applier.backend().view()).expect("sound");
    assert!(loaded.is_raised(AlarmType::Corrupt) && !loaded.is_raised(AlarmType::Nospace));
    let range = pb::RangeRequest {
        key: "a".into(),
        ..pb::RangeRequest::default()
    };
    let outcome = node.request(InternalRaftRequest {
        range: Some(range),
        ..InternalRaftRequest::default()
    });
    assert_eq!(error(&outcome), Some(api::Error::Corrupt));
    node.alarm(Deactivate, AlarmType::Corrupt);
    assert!(node.applier.alarms().get(0).is_empty());
    node.applier
        .writer()
        .put(Bucket::Alarm, b"\xff", bytes::Bytes::new());
    assert!(matches!(
        node.applier.alarms().reload(&node.applier.backend().view()),
        Err(Fatal::Alarm { .. })
    ));
}

#[test]
fn members_of_3_5_publish_themselves_with_v2_requests() {
    let mut node = node();
    let id = node.applier.local_id();
    let v2 = |method: &str, path: &str, val: &str| pb::RequestV2 {
        method: method.to_owned(),
        path: path.to_owned(),
        val: val.to_owned(),
        id: 11,
        ..pb::RequestV2::default()
    };
    let path = format!("/0/members/{id}/attributes");
    let published = v2("PUT", &path, r#"{"name":"x","clientURLs":["http://c:1"]}"#);
    let outcome = node.request(InternalRaftRequest {
        v2: Some(published.clone()),
        ..InternalRaftRequest::default()
    });
    assert_eq!(outcome.result, Some(Ok(Response::Empty)));
    let name = |node: &Node| {
        node.applier
            .cluster()
            .get()
            .member(id)
            .expect("a member")
            .name
            .clone()
    };
    assert_eq!(name(&node), "x");

    // Older still: the bare request is the entry.
    let bare = v2("PUT", &path, r#"{"name":"y"}"#).encode_to_vec();
    let outcome = node.entry(EntryType::EntryNormal, bare).expect("readable");
    assert_eq!((outcome.request_id, name(&node).as_str()), (11, "y"));
    let version = v2("PUT", "/0/version", "3.5.0");
    node.request(InternalRaftRequest {
        v2: Some(version),
        ..InternalRaftRequest::default()
    });
    assert_eq!(
        node.applier.cluster().get().version(),
        Some(&Version::new(3, 5))
    );

    for ignored in [
        v2("SYNC", "", ""),
        v2("PUT", "/1/key", "value"),
        v2("PUT", "/0/members/xyz/attributes", "{}"),
        v2("PUT", "/0/members/00000000000000001/attributes", "{}"),
        v2("PUT", &path, "{"),
        v2("PUT", "/0/members/77/attributes", "{}"),
        v2("PUT", "/0/version", "three"),
    ] {
        let what = format!("{ignored:?}");
        let outcome = node.request(InternalRaftRequest {
            v2: Some(ignored),
            ..InternalRaftRequest::default()
        });
        assert!(
            outcome.ignored.is_some() && outcome.result.is_none(),
            "{what}: {outcome:?}"
        );
    }
}

#[test]
fn entries_that_mean_nothing_are_passed_over() {
    let mut node = node();
    let outcome = node
        .entry(EntryType::EntryNormal, Vec::new())
        .expect("the first of a term");
    assert!(outcome.hints.first_in_term && outcome.result.is_none());
    let outcome = node
        .entry(EntryType::EntryNormal, b"\xff\xff\xff".to_vec())
        .expect("no request");
    assert!(outcome.ignored.expect("garbage").contains("3 bytes"));
    let outcome = node.request(InternalRaftRequest::default());
    assert!(outcome.ignored.is_some() && outcome.result.is_none());
    assert_eq!(node.applier.applied().index, node.index);
    assert_eq!(node.applier.applied().term, 2);
    let test = pb::DowngradeVersionTestRequest {
        ver: "3.7.0".to_owned(),
    };
    let outcome = node.request(InternalRaftRequest {
        downgrade_version_test: Some(test),
        ..InternalRaftRequest::default()
    });
    assert_eq!(
        (outcome.result, outcome.ignored),
        (Some(Ok(Response::Empty)), None)
    );
}

#[test]
fn a_range_is_read_only_for_who_waits() {
    let mut node = node();
    node.put(put("a", "1"));
    let range = pb::RangeRequest {
        key: "a".into(),
        ..pb::RangeRequest::default()
    };
    let request = InternalRaftRequest {
        range: Some(range),
        id: 4,
        ..InternalRaftRequest::default()
    };
    let entry = |index| Entry {
        index,
        term: 2,
        data: request.encode_to_vec().into(),
        ..Entry::default()
    };
    let outcome = node
        .applier
        .apply_entry(&entry(node.index + 1), &|_| false, NOW)
        .expect("a range");
    assert_eq!((outcome.request_id, outcome.result), (4, None));
    let outcome = node
        .applier
        .apply_entry(&entry(node.index + 2), &|id| id == 4, NOW)
        .expect("a range");
    let Some(Ok(Response::Range(response))) = outcome.result else {
        panic!("no answer")
    };
    assert_eq!(
        (
            response.kvs.len(),
            response.header.expect("a header").revision
        ),
        (1, 2)
    );
}

#[test]
fn the_clusters_version_goes_up_and_down_and_not_beyond_ours() {
    let mut node = node();
    let mut set = |ver: &str| {
        let set = membershippb::ClusterVersionSetRequest {
            ver: ver.to_owned(),
        };
        node.request(InternalRaftRequest {
            cluster_version_set: Some(set),
            ..InternalRaftRequest::default()
        })
    };
    let outcome = set("3.7.0");
    assert!(outcome.hints.version_changed && !outcome.hints.force_snapshot);
    assert!(set("3.6.0").hints.force_snapshot);
    assert!(set("x").ignored.is_some());
    let info = membershippb::DowngradeInfoSetRequest {
        enabled: true,
        ver: "3.6.0".to_owned(),
    };
    node.request(InternalRaftRequest {
        downgrade_info_set: Some(info),
        ..InternalRaftRequest::default()
    });
    assert_eq!(
        node.applier.cluster().get().downgrade().target_version,
        "3.6.0"
    );
    let info = membershippb::DowngradeInfoSetRequest {
        enabled: false,
        ver: "3.6.0".to_owned(),
    };
    node.request(InternalRaftRequest {
        downgrade_info_set: Some(info),
        ..InternalRaftRequest::default()
    });
    assert_eq!(node.applier.cluster().get().downgrade().target_version, "");

    let set = membershippb::ClusterVersionSetRequest {
        ver: "3.8.0".to_owned(),
    };
    let data = InternalRaftRequest {
        cluster_version_set: Some(set),
        ..InternalRaftRequest::default()
    }
    .encode_to_vec();
    let fatal = node
        .entry(EntryType::EntryNormal, data)
        .expect_err("too new for this server");
    assert!(matches!(fatal, Fatal::TooOld { .. }), "{fatal}");
    assert_eq!(
        node.applier.applied().index,
        node.index - 1,
        "it will be met again by a newer program"
    );
    assert_eq!(
        node.applier.cluster().get().version(),
        Some(&Version::new(3, 6))
    );
}

#[test]
fn what_changes_auth_stops_a_member_without_auth() {
    let mut node = node();
    let status = InternalRaftRequest {
        auth_status: Some(pb::AuthStatusRequest {}),
        ..InternalRaftRequest::default()
    };
    assert_eq!(node.request(status).ignored.as_deref(), Some("auth status"));
    let enable = InternalRaftRequest {
        auth_enable: Some(pb::AuthEnableRequest {}),
        ..InternalRaftRequest::default()
    };
    let fatal = node
        .entry(EntryType::EntryNormal, enable.encode_to_vec())
        .expect_err("not without auth");
    assert!(fatal.to_string().contains("auth enable"), "{fatal}");

    let (backend, mut writer, _committer) = database();
    writer.put(Bucket::AuthUsers, b"root", bytes::Bytes::new());
    writer.end_local();
    let cluster = Arc::new(Cluster::new(Membership::of_remote(1, Vec::new())));
    assert!(matches!(
        Applier::open(backend, writer, cluster, config()),
        Err(Fatal::Unsupported { .. })
    ));
}

#[test]
fn conf_changes_say_what_raft_and_the_server_have_to_do() {
    let mut node = node();
    let learner = Member {
        id: MemberId(5),
        peer_urls: vec!["http://e:1".to_owned()],
        is_learner: true,
        ..Member::default()
    };
    let outcome = node.conf(&Change::AddLearner(learner.clone()));
    let change = outcome.conf_change.expect("a conf change");
    assert_eq!((outcome.request_id, change.raft.node_id), (9, 5));
    assert_eq!(change.applied, Some(Applied::Added(learner)));
    assert_eq!(
        (
            change.conf_state.voters.len(),
            &change.conf_state.learners[..]
        ),
        (2, &[5][..])
    );
    assert_eq!(change.result.expect("allowed").len(), 3);

    let change = node
        .conf(&Change::Promote(MemberId(6)))
        .conf_change
        .expect("a conf change");
    assert_eq!(change.result, Err(api::Error::MemberNotFound));
    assert_eq!(
        (change.raft.node_id, change.refused),
        (0, Some(membership::Error::IdNotFound))
    );

    // Bytes that are no conf change: etcd stops, we refuse, and raft goes on.
    let outcome = node
        .entry(EntryType::EntryConfChange, b"\xff".to_vec())
        .expect("refused");
    let change = outcome.conf_change.expect("a conf change");
    assert!(change.result.is_err() && change.raft.node_id == 0);

    let local = node.applier.local_id();
    let change = node
        .conf(&Change::Remove(local))
        .conf_change
        .expect("a conf change");
    assert!(change.removed_self);
    assert!(matches!(
        node.entry(EntryType::EntryConfChangeV2, Vec::new()),
        Err(Fatal::Unsupported { .. })
    ));

    // Met again after a start, an entry does nothing.
    let entry = Change::Remove(MemberId(5)).to_entry(3);
    let again = Entry { index: 4, ..entry };
    let outcome = node
        .applier
        .apply_entry(&again, &|_| true, NOW)
        .expect("known");
    assert!(
        outcome.replayed
            && outcome
                .conf_change
                .is_some_and(|change| change.applied.is_none())
    );
    assert!(node.applier.cluster().get().member(MemberId(5)).is_some());
}

#[test]
fn leases_follow_their_keys() {
    let mut node = node();
    for id in [1, 2] {
        let grant = pb::LeaseGrantRequest { id, ttl: 60 };
        node.request(InternalRaftRequest {
            lease_grant: Some(grant),
            ..InternalRaftRequest::default()
        });
    }
    let keys = |node: &Node, id| node.applier.lessor().keys(LeaseId(id)).expect("a lease");
    let with = |key: &str, lease| pb::PutRequest {
        lease,
        ..put(key, "v")
    };
    node.put(with("b", 1));
    node.put(with("a", 1));
    assert_eq!(keys(&node, 1), ["a", "b"]);
    node.put(with("a", 2));
    assert_eq!(
        (keys(&node, 1), keys(&node, 2)),
        (vec!["b".into()], vec!["a".into()])
    );
    let keep = pb::PutRequest {
        ignore_lease: true,
        ..put("a", "w")
    };
    node.put(keep);
    assert_eq!(keys(&node, 2), ["a"]);
    node.put(put("b", "v"));
    assert!(keys(&node, 1).is_empty());
    assert_eq!(
        error(&node.put(with("c", 3))),
        Some(api::Error::LeaseNotFound)
    );
    let nothing = pb::PutRequest {
        ignore_value: true,
        ..put("c", "")
    };
    assert_eq!(error(&node.put(nothing)), Some(api::Error::KeyNotFound));

    // In clusters before 3.6 a checkpoint stays in memory.
    let checkpoint = pb::LeaseCheckpointRequest {
        checkpoints: vec![pb::LeaseCheckpoint {
            id: 2,
            remaining_ttl: 7,
        }],
    };
    let request = InternalRaftRequest {
        lease_checkpoint: Some(checkpoint),
        ..InternalRaftRequest::default()
    };
    let record = |node: &Node| {
        let record = node
            .applier
            .backend()
            .view()
            .get(Bucket::Lease, &2i64.to_be_bytes())
            .expect("readable");
        api::leasepb::Lease::decode(record.expect("a lease"))
            .expect("a lease")
            .remaining_ttl
    };
    node.request(request.clone());
    assert_eq!(record(&node), 0);
    let set = membershippb::ClusterVersionSetRequest {
        ver: "3.6.0".to_owned(),
    };
    node.request(InternalRaftRequest {
        cluster_version_set: Some(set),
        ..InternalRaftRequest::default()
    });
    node.request(request);
    assert_eq!(record(&node), 7);

    let lessor = Arc::clone(node.applier.lessor());
    lessor.promote(Duration::ZERO, NOW);
    assert_eq!(lessor.renew(LeaseId(1), NOW), Ok(Renewal::Renewed(60)));
    let revoke = pb::LeaseRevokeRequest { id: 2 };
    node.request(InternalRaftRequest {
        lease_revoke: Some(revoke),
        ..InternalRaftRequest::default()
    });
    assert_eq!(
        (node.value("a"), lessor.contains(LeaseId(2))),
        (None, false)
    );
}

#[test]
fn a_transaction_that_only_reads_sees_one_revision() {
    let mut node = node();
    node.put(put("a", "1"));
    let range = |revision| pb::RequestOp {
        request: Some(Request::RequestRange(pb::RangeRequest {
            key: "a".into(),
            revision,
            ..pb::RangeRequest::default()
        })),
    };
    let txn = |revision| pb::TxnRequest {
        success: vec![range(0), range(revision)],
        ..pb::TxnRequest::default()
    };
    let pinned = node.applier.mvcc().clone();
    let pinned = pinned.pin();
    node.put(put("a", "2"));
    let response = read_only_txn(&pinned, &txn(1)).expect("readable");
    assert!(response.succeeded);
    assert_eq!(response.header.expect("a header").revision, 2);
    let values: Vec<usize> = response
        .responses
        .iter()
        .map(|op| match &op.response {
            Some(pb::response_op::Response::ResponseRange(range)) => range.kvs.len(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(values, [1, 0]);
    assert!(matches!(
        read_only_txn(&pinned, &txn(3)),
        Err(mvcc::Error::Future)
    ));
    assert!(matches!(
        read_only_txn(&pinned, &txn(-2)),
        Err(mvcc::Error::Compacted)
    ));
    assert!(crate::is_read_only(&txn(0)) && !crate::is_serializable(&txn(0)));
    assert!(crate::is_serializable(&pb::TxnRequest::default()));
}

#[test]
fn a_received_database_takes_the_place_of_the_old_one() {
    let mut sender = node();
    let grant = pb::LeaseGrantRequest { id: 1, ttl: 60 };
    sender.request(InternalRaftRequest {
        lease_grant: Some(grant),
        ..InternalRaftRequest::default()
    });
    sender.put(pb::PutRequest {
        lease: 1,
        ..put("a", "1")
    });
    sender.alarm(pb::alarm_request::AlarmAction::Activate, AlarmType::Nospace);
    let remove = sender
        .applier
        .cluster()
        .get()
        .member_by_name("b")
        .expect("a member")
        .id;
    sender.conf(&Change::Remove(remove));
    sender.committer.commit().expect("a commit");

    let mut receiver = node();
    receiver.put(put("old", "1"));
    let (mvcc, lessor) = (
        Arc::clone(receiver.applier.mvcc()),
        Arc::clone(receiver.applier.lessor()),
    );
    let (backend, mut writer, _committer) = database();
    let view = sender.applier.backend().view();
    for bucket in Bucket::ALL {
        view.scan(bucket, &[], None, &mut |key, value| {
            writer.put(bucket, key, bytes::Bytes::copy_from_slice(value));
            std::ops::ControlFlow::Continue(())
        })
        .expect("a bucket");
    }
    writer.end_entry(sender.index, 2);
    receiver.applier.replace(backend, writer).expect("sound");
    assert_eq!(
        (receiver.value("old"), receiver.value("a").as_deref()),
        (None, Some("1"))
    );
    assert_eq!(mvcc.revision(), sender.applier.mvcc().revision());
    assert_eq!(lessor.keys(LeaseId(1)), Ok(vec!["a".into()]));
    assert!(receiver.applier.alarms().is_raised(AlarmType::Nospace));
    assert!(receiver.applier.cluster().get().is_removed(remove));
    assert_eq!(
        receiver.applier.cluster().get().local_id(),
        sender.applier.local_id()
    );
    assert_eq!(receiver.applier.applied().index, sender.index);
}
