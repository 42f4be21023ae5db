//! The membership over a real database: conf changes, what they leave in the buckets, and
//! what comes back from there.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use backend::{Backend, Bucket, Committer, Options, Writer};
use membership::store;
use membership::{
    Applied, Change, Cluster, DowngradeInfo, Error, Member, MemberId, Membership, Version,
    adopt_ids, bootstrap_entries, new_member, parse_initial_cluster, v2store,
};
use raftpb::conf::{Change as Proposal, decode_conf_change};
use raftpb::{ConfChange, ConfChangeType, ConfState};
use seams::MemDisk;

struct Database {
    backend: Backend,
    writer: Writer,
    _committer: Committer,
}

fn database() -> Database {
    let options = Options {
        growth_bytes: 1 << 16,
        map_bytes: 1 << 20,
        ..Options::default()
    };
    let (backend, writer, committer) =
        Backend::open(Arc::new(MemDisk::new()), Path::new("db"), options).expect("a new database");
    Database {
        backend,
        writer,
        _committer: committer,
    }
}

impl Database {
    fn dump(&mut self, bucket: Bucket) -> Vec<(String, String)> {
        self.writer.end_local();
        let mut records = Vec::new();
        self.backend
            .view()
            .scan(bucket, &[], None, &mut |key, value| {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                records.push((text(key), text(value)));
                ControlFlow::Continue(())
            })
            .expect("a bucket");
        records
    }

    fn load(&mut self, like: &Membership) -> Membership {
        self.writer.end_local();
        let (cluster, local) = (like.cluster_id(), like.local_id());
        Membership::load(&self.backend.view(), cluster, local, like.learners_max())
            .expect("what was written")
    }
}

fn member(id: u64, url: &str, is_learner: bool) -> Member {
    Member {
        id: MemberId(id),
        peer_urls: vec![url.to_owned()],
        is_learner,
        ..Member::default()
    }
}

fn change(proposal: &Proposal) -> Change {
    Change::decode(&proposal.to_conf_change(5)).expect("a proposal can be read")
}

/// Three members 1, 2, 3 (2 with two URLs), learner 4, and 9 removed.
fn cluster(database: &mut Database) -> Membership {
    let mut membership = Membership::of_remote(0xc1, Vec::new());
    membership.set_ids(MemberId(1), 0xc1);
    let mut second = member(2, "http://b:1", false);
    second.peer_urls.push("http://b:2".to_owned());
    for proposal in [
        Proposal::Add(member(1, "http://a:1", false)),
        Proposal::Add(second),
        Proposal::Add(member(3, "http://c:1", false)),
        Proposal::Add(member(9, "http://z:1", false)),
        Proposal::AddLearner(member(4, "http://d:1", true)),
        Proposal::Remove(MemberId(9)),
    ] {
        let change = change(&proposal);
        membership.validate(&change).expect("allowed");
        membership.apply(&change, &mut database.writer);
    }
    membership
}

#[test]
fn conf_changes_are_judged_by_etcds_rules() {
    let mut database = database();
    let membership = cluster(&mut database);
    let check = |proposal: Proposal| membership.validate(&change(&proposal));

    assert_eq!(check(Proposal::Add(member(5, "http://e:1", false))), Ok(()));
    assert_eq!(
        check(Proposal::Add(member(9, "http://e:1", false))),
        Err(Error::IdRemoved)
    );
    assert_eq!(
        check(Proposal::Add(member(4, "http://e:1", false))),
        Err(Error::IdExists)
    );
    assert_eq!(
        check(Proposal::Add(member(5, "http://b:2", false))),
        Err(Error::PeerUrlExists)
    );
    assert_eq!(
        check(Proposal::AddLearner(member(5, "http://e:1", true))),
        Err(Error::TooManyLearners)
    );
    assert_eq!(
        check(Proposal::AddLearner(member(5, "http://c:1", true))),
        Err(Error::PeerUrlExists)
    );
    assert_eq!(check(Proposal::Promote(MemberId(4))), Ok(()));
    assert_eq!(
        check(Proposal::Promote(MemberId(1))),
        Err(Error::NotLearner)
    );
    assert_eq!(
        check(Proposal::Promote(MemberId(5))),
        Err(Error::IdNotFound)
    );
    assert_eq!(check(Proposal::Promote(MemberId(9))), Err(Error::IdRemoved));
    assert_eq!(check(Proposal::Remove(MemberId(2))), Ok(()));
    assert_eq!(check(Proposal::Remove(MemberId(5))), Err(Error::IdNotFound));
    assert_eq!(check(Proposal::Remove(MemberId(9))), Err(Error::IdRemoved));
    let update = |id, url: &str| Proposal::Update {
        id: MemberId(id),
        peer_urls: vec![url.to_owned()],
    };
    assert_eq!(check(update(2, "http://b:2")), Ok(()));
    assert_eq!(check(update(2, "http://c:1")), Err(Error::PeerUrlExists));
    assert_eq!(check(update(5, "http://e:1")), Err(Error::IdNotFound));
    assert_eq!(check(update(9, "http://e:1")), Err(Error::IdRemoved));
}

/// etcd would add it, so it is added; raft and the member list differ from then on.
#[test]
fn a_voter_that_says_it_learns_is_not_counted_as_a_learner() {
    let mut database = database();
    let membership = cluster(&mut database);
    let odd = ConfChange {
        id: 1,
        change_type: ConfChangeType::ConfChangeAddNode.into(),
        node_id: 5,
        context: member(5, "http://e:1", true).to_json().into(),
    };
    assert_eq!(
        membership.validate(&Change::decode(&odd).expect("readable")),
        Ok(())
    );
}

#[test]
fn unreadable_changes_are_errors() {
    let add = Proposal::Add(member(5, "http://e:1", false)).to_conf_change(1);
    let with = |change: &dyn Fn(&mut ConfChange)| {
        let mut add = add.clone();
        change(&mut add);
        Change::decode(&add)
    };
    assert_eq!(
        with(&|add| add.change_type = 4),
        Err(Error::UnknownChange(4))
    );
    let ids = Error::IdMismatch {
        entry: MemberId(6),
        context: MemberId(5),
    };
    assert_eq!(with(&|add| add.node_id = 6), Err(ids));
    for context in ["", "x", "[]", "{\"id\":\"5\"}"] {
        let result = with(&|add| add.context = context.to_owned().into());
        assert!(
            matches!(result, Err(Error::BadJson { .. })),
            "{context:?}: {result:?}"
        );
    }
}

#[test]
fn changes_lie_in_the_buckets_as_etcd_writes_them() {
    let mut database = database();
    let mut membership = cluster(&mut database);
    let writer = &mut database.writer;
    let promoted = membership.apply(&change(&Proposal::Promote(MemberId(4))), writer);
    assert_eq!(promoted, Applied::Promoted(MemberId(4)));
    let urls = vec!["http://c:9".to_owned()];
    let update = Proposal::Update {
        id: MemberId(3),
        peer_urls: urls.clone(),
    };
    let updated = membership.apply(&change(&update), writer);
    assert_eq!(updated, Applied::Updated(MemberId(3), Some(urls)));
    let clients = vec!["http://a:2".to_owned()];
    membership
        .set_attributes(MemberId(1), "<a>".to_owned(), clients.clone(), writer)
        .expect("a member");
    membership
        .set_attributes(MemberId(9), "z".to_owned(), clients.clone(), writer)
        .expect("ignored: removed");
    let unknown = membership.set_attributes(MemberId(7), "y".to_owned(), clients, writer);
    assert_eq!(unknown, Err(Error::UnknownMember(MemberId(7))));
    assert_eq!(membership.set_version(Version::new(3, 6), writer), None);
    assert_eq!(
        membership.set_version(Version::new(3, 7), writer),
        Some(Version::new(3, 6))
    );
    let info = DowngradeInfo {
        target_version: "3.6.0".to_owned(),
        enabled: true,
    };
    membership.set_downgrade(info, writer);

    let record = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    assert_eq!(
        database.dump(Bucket::Members),
        [
            record(
                "1",
                r#"{"id":1,"peerURLs":["http://a:1"],"name":"\u003ca\u003e","clientURLs":["http://a:2"]}"#
            ),
            record("2", r#"{"id":2,"peerURLs":["http://b:1","http://b:2"]}"#),
            record("3", r#"{"id":3,"peerURLs":["http://c:9"]}"#),
            record("4", r#"{"id":4,"peerURLs":["http://d:1"]}"#),
        ]
    );
    assert_eq!(
        database.dump(Bucket::MembersRemoved),
        [record("9", "removed")]
    );
    assert_eq!(
        database.dump(Bucket::Cluster),
        [
            record("clusterVersion", "3.7.0"),
            record("downgrade", r#"{"target-version":"3.6.0","enabled":true}"#)
        ]
    );
    assert_eq!(
        database.dump(Bucket::Meta),
        [record(
            "confState",
            r#"{"voters":[1,2,3,4],"auto_leave":false}"#
        )]
    );
    assert_eq!(database.load(&membership), membership);

    store::clear_members(&database.backend.view(), &mut database.writer).expect("readable");
    let cleared = database.load(&membership);
    assert_eq!(
        (cleared.members().count(), cleared.removed().count()),
        (0, 0)
    );
}

#[test]
fn damage_in_the_buckets_is_an_error() {
    let put = |bucket, key: &str, value: &str| {
        let mut database = database();
        database
            .writer
            .put(bucket, key.as_bytes(), value.to_owned().into());
        database.writer.end_local();
        Membership::load(&database.backend.view(), 1, MemberId(1), 1).err()
    };
    assert!(matches!(
        put(Bucket::Members, "x", "{}"),
        Some(Error::BadMemberKey { .. })
    ));
    assert!(matches!(
        put(Bucket::MembersRemoved, "g", "removed"),
        Some(Error::BadMemberKey { .. })
    ));
    assert!(matches!(
        put(Bucket::Members, "1", "{"),
        Some(Error::BadJson { .. })
    ));
    assert!(matches!(
        put(Bucket::Cluster, "clusterVersion", "3"),
        Some(Error::BadVersion { .. })
    ));
    assert!(matches!(
        put(Bucket::Cluster, "downgrade", r#"{"enabled":true}"#),
        Some(Error::BadVersion { .. })
    ));
    assert!(matches!(
        put(Bucket::Meta, "confState", "null,"),
        Some(Error::BadJson { .. })
    ));
    assert_eq!(
        put(Bucket::Cluster, "downgrade", r#"{"enabled":false}"#),
        None
    );
}

/// The document in a `.snap` file that etcd 3.7.3 wrote, as a single member with client URLs
/// and cluster version 3.7.0 (`etcd --name 'a<b' --snapshot-count=10`, 50 puts).
#[test]
fn the_document_of_a_snapshot_is_etcds() {
    let mut database = database();
    let mut alone = Membership::of_remote(1, Vec::new());
    let added = member(0x6678_8015_7b88_12c8, "http://127.0.0.1:42380", false);
    alone.apply(&change(&Proposal::Add(added.clone())), &mut database.writer);
    let clients = vec!["http://127.0.0.1:42379".to_owned()];
    alone
        .set_attributes(added.id, "a<b".to_owned(), clients, &mut database.writer)
        .expect("a member");
    alone.set_version(Version::new(3, 7), &mut database.writer);
    assert_eq!(
        v2store::encode(&alone),
        include_str!("../testdata/v2store.json")
    );

    // More of it: learners, removed IDs, no name yet. Paths and values, without indices.
    let text = v2store::encode(&cluster(&mut database));
    for part in [
        r#""Path":"/0/members/4/raftAttributes","CreatedIndex":4,"ModifiedIndex":4,"ExpireTime":"0001-01-01T00:00:00Z","Value":"{\"peerURLs\":[\"http://d:1\"],\"isLearner\":true}","Children":null}"#,
        r#""removed_members":{"Path":"/0/removed_members","CreatedIndex":5,"ModifiedIndex":5"#,
        r#"{"action":"create","node":{"key":"/0/removed_members/9","value":"","modifiedIndex":5,"createdIndex":5}}"#,
        r#""Size":5,"Front":0,"Back":5,"Capacity":1000},"StartIndex":1,"LastIndex":5}},"CurrentIndex":5"#,
    ] {
        assert!(text.contains(part), "{part}\nnot in\n{text}");
    }
}

#[test]
fn a_cluster_begins_with_its_members_in_the_log() {
    let initial = parse_initial_cluster("b=http://b:1,a=http://a:2,a=http://a:1").expect("valid");
    let mut membership = Membership::seed(&initial, "token", 1).expect("two members");
    let ids: Vec<MemberId> = membership.members().map(|member| member.id).collect();
    let entries = bootstrap_entries(&membership);
    assert_eq!(entries.len(), 2);
    let mut database = database();
    for (position, entry) in entries.iter().enumerate() {
        assert_eq!((entry.term, entry.index), (1, position as u64 + 1));
        let change =
            Change::decode(&decode_conf_change(entry).expect("own entry")).expect("own entry");
        assert_eq!((change.node, change.request_id), (ids[position], 0));
        // The members are known already, from the configuration. They are added all the same.
        assert_eq!(membership.validate(&change), Ok(()));
        membership.apply(&change, &mut database.writer);
        assert_eq!(membership.validate(&change), Err(Error::IdExists));
    }
    assert_eq!(
        membership
            .member_by_name("a")
            .map(|member| member.peer_urls.len()),
        Some(2)
    );
    assert_eq!(membership.conf_state().voters, [ids[0].0, ids[1].0]);
    assert_eq!(
        membership.peer_urls(),
        ["http://a:1", "http://a:2", "http://b:1"]
    );

    let twins = parse_initial_cluster("a=http://a:1,b=http://a:1").expect("valid");
    assert!(matches!(
        Membership::seed(&twins, "token", 1),
        Err(Error::SameId { .. })
    ));
}

#[test]
fn a_joiner_takes_its_ids_from_the_running_cluster() {
    let initial = parse_initial_cluster("a=http://a:1,b=http://B:1").expect("valid");
    let running = Membership::of_remote(
        77,
        vec![
            member(1, "http://a:1", false),
            member(2, "http://b:1", false),
        ],
    );
    // "Resolves" names: by lower case.
    let mut same = |left: &[String], right: &[String]| -> Result<bool, String> {
        let lower = |urls: &[String]| {
            urls.iter()
                .map(|url| url.to_lowercase())
                .collect::<Vec<String>>()
        };
        if right.iter().any(|url| url.contains("unknown")) {
            return Err("no such host".to_owned());
        }
        Ok(lower(left) == lower(right))
    };
    let mut local = Membership::seed(&initial, "t", 1).expect("two members");
    adopt_ids(&mut local, &running, &mut same).expect("the same members");
    assert_eq!(local.cluster_id(), 77);
    assert_eq!(
        local.member_by_name("b").map(|member| member.id),
        Some(MemberId(2))
    );

    let alone = parse_initial_cluster("a=http://a:1").expect("valid");
    let mut local = Membership::seed(&alone, "t", 1).expect("one member");
    let unequal = adopt_ids(&mut local, &running, &mut same);
    assert_eq!(
        unequal,
        Err(Error::CountUnequal {
            local: 1,
            remote: 2
        })
    );

    let other = parse_initial_cluster("a=http://a:1,b=http://unknown:1").expect("valid");
    let mut local = Membership::seed(&other, "t", 1).expect("two members");
    let no_match = adopt_ids(&mut local, &running, &mut same).expect_err("b is elsewhere");
    assert!(
        matches!(
            no_match,
            Error::NoMatch {
                id: MemberId(2),
                ..
            }
        ),
        "{no_match}"
    );
    assert!(no_match.to_string().contains("no such host"));
}

#[test]
fn rafts_configuration_follows_the_changes() {
    let mut state = ConfState::default();
    let steps: [(ConfChangeType, u64, &[u64], &[u64]); 8] = [
        (ConfChangeType::ConfChangeAddNode, 3, &[3], &[]),
        (ConfChangeType::ConfChangeAddNode, 1, &[1, 3], &[]),
        (ConfChangeType::ConfChangeAddLearnerNode, 2, &[1, 3], &[2]),
        (ConfChangeType::ConfChangeUpdateNode, 2, &[1, 3], &[2]),
        (ConfChangeType::ConfChangeAddNode, 2, &[1, 2, 3], &[]),
        (ConfChangeType::ConfChangeAddLearnerNode, 3, &[1, 2], &[3]),
        (ConfChangeType::ConfChangeRemoveNode, 1, &[2], &[3]),
        (ConfChangeType::ConfChangeRemoveNode, 0, &[2], &[3]),
    ];
    for (kind, node, voters, learners) in steps {
        membership::update_conf_state(&mut state, kind, MemberId(node));
        assert_eq!(
            (&state.voters[..], &state.learners[..]),
            (voters, learners),
            "{kind:?} {node}"
        );
    }
}

#[test]
fn the_schema_moves_between_the_versions_that_have_one() {
    let mut database = database();
    let set = |database: &mut Database, key: &[u8], value: &[u8]| {
        database
            .writer
            .put(Bucket::Meta, key, value.to_vec().into());
        database.writer.end_local();
    };
    let migrate = |database: &mut Database, minor, wal: Option<&Version>| {
        let view = database.backend.view();
        let result = store::migrate(&view, &mut database.writer, &Version::new(3, minor), wal);
        database.writer.end_local();
        result
    };
    let version =
        |database: &Database| store::storage_version(&database.backend.view()).expect("readable");

    // A new file has no term yet: nothing can be said of it.
    assert!(matches!(
        migrate(&mut database, 7, None),
        Err(Error::Migration(_))
    ));
    set(&mut database, b"term", &1u64.to_be_bytes());
    assert_eq!(migrate(&mut database, 7, None), Ok(Version::new(3, 5)));
    assert_eq!(version(&database), Some(Version::new(3, 7)));
    let newer = Version::new(3, 7);
    assert!(matches!(
        migrate(&mut database, 6, Some(&newer)),
        Err(Error::Migration(_))
    ));
    assert_eq!(
        migrate(&mut database, 6, Some(&Version::new(3, 6))),
        Ok(Version::new(3, 7))
    );
    assert_eq!(migrate(&mut database, 5, None), Ok(Version::new(3, 6)));
    assert_eq!(version(&database), None);
    for minor in [4, 8] {
        assert!(matches!(
            migrate(&mut database, minor, None),
            Err(Error::Migration(_))
        ));
    }
    assert_eq!(store::check_schema(&database.backend.view()), Ok(()));
    set(&mut database, b"storageVersion", b"3.8.0");
    assert!(store::check_schema(&database.backend.view()).is_err());
    set(&mut database, b"storageVersion", b"4.0.0");
    assert!(store::check_schema(&database.backend.view()).is_err());
}

#[test]
fn readers_keep_the_membership_they_took() {
    let mut database = database();
    let shared = Cluster::new(cluster(&mut database));
    let before = shared.get();
    let writer = &mut database.writer;
    shared.update(|membership| membership.apply(&change(&Proposal::Remove(MemberId(3))), writer));
    assert!(before.member(MemberId(3)).is_some());
    assert!(shared.get().is_removed(MemberId(3)));
    assert_eq!(shared.get().voters().count(), 2);
    assert!(!shared.get().is_local_learner());
}

#[test]
fn a_member_added_later_has_an_id_of_its_own() {
    let urls = vec!["http://a:1".to_owned()];
    let first = new_member(urls.clone(), false, 1_700_000_000);
    assert_ne!(first.id, new_member(urls, false, 1_700_000_001).id);
}
