//! Are our messages etcd's? Names, numbers and types against what etcd's Go types say of
//! themselves, and bytes against what Go writes. How `testdata` was made stands in its files.
#![expect(clippy::unwrap_used, reason = "a test may")]

use std::collections::BTreeSet;
use std::fmt::Debug;

use api::etcdserverpb as pb;
use api::{authpb, health, leasepb, membershippb, mvccpb};
use bytes::Bytes;
use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorSet};

/// What etcd 3.7.3 has and we leave out, or the reverse.
const EXCEPTIONS: [&str; 3] = [
    // Nothing in etcd uses it.
    "message etcdserverpb.EmptyResponse",
    // Of etcd 3.5 and 3.6; 3.7 has reserved the number.
    "field etcdserverpb.InternalRaftRequest.v2 ",
    "etcdserverpb.RequestV2",
];

#[test]
fn names_numbers_and_types_are_those_of_etcd() {
    let theirs: BTreeSet<&str> = include_str!("../testdata/fields.txt")
        .lines()
        .filter(|line| !line.starts_with('#'))
        .collect();
    let listing = list(&FileDescriptorSet::decode(api::FILE_DESCRIPTOR_SET).unwrap());
    let ours: BTreeSet<&str> = listing.iter().map(String::as_str).collect();
    let different: Vec<_> = theirs
        .symmetric_difference(&ours)
        .filter(|line| !EXCEPTIONS.iter().any(|exception| line.contains(exception)))
        .collect();
    assert!(theirs.len() > 400, "the list is whole: {}", theirs.len());
    assert!(different.is_empty(), "{different:#?}");
}

/// One line for each message, field, enum value and call, as in `testdata/fields.txt`.
fn list(set: &FileDescriptorSet) -> Vec<String> {
    let mut lines = Vec::new();
    for file in &set.file {
        for message in &file.message_type {
            list_message(file.package(), message, &mut lines);
        }
        for listed in &file.enum_type {
            list_enum(file.package(), listed, &mut lines);
        }
        for service in &file.service {
            for call in &service.method {
                lines.push(format!(
                    "rpc {}.{}.{} {}{} -> {}{}",
                    file.package(),
                    service.name(),
                    call.name(),
                    if call.client_streaming() {
                        "stream "
                    } else {
                        ""
                    },
                    bare(call.input_type()),
                    if call.server_streaming() {
                        "stream "
                    } else {
                        ""
                    },
                    bare(call.output_type()),
                ));
            }
        }
    }
    lines
}

fn list_message(scope: &str, message: &DescriptorProto, lines: &mut Vec<String>) {
    let name = format!("{scope}.{}", message.name());
    lines.push(format!("message {name}"));
    for field in &message.field {
        let mut kind = match field.r#type() {
            Type::Message | Type::Enum => bare(field.type_name()).to_owned(),
            scalar => scalar.as_str_name()["TYPE_".len()..].to_lowercase(),
        };
        let entry = message
            .nested_type
            .iter()
            .find(|nested| field.type_name() == format!(".{name}.{}", nested.name()));
        if let Some(entry) =
            entry.filter(|entry| entry.options.as_ref().is_some_and(|o| o.map_entry()))
        {
            kind = format!("map<string,{}>", bare(entry.field[1].type_name()));
        } else if field.label() == Label::Repeated {
            kind = format!("repeated {kind}");
            if !matches!(field.r#type(), Type::Message | Type::String | Type::Bytes) {
                kind.push_str(" packed");
            }
        }
        if field.oneof_index.is_some() && !field.proto3_optional() {
            let oneof = &message.oneof_decl[usize::try_from(field.oneof_index()).unwrap()];
            kind = format!("{kind} oneof {}", oneof.name());
        }
        lines.push(format!(
            "field {name}.{} = {} {kind}",
            field.name(),
            field.number()
        ));
    }
    for listed in &message.enum_type {
        list_enum(&name, listed, lines);
    }
}

fn list_enum(scope: &str, listed: &EnumDescriptorProto, lines: &mut Vec<String>) {
    for value in &listed.value {
        lines.push(format!(
            "enum {scope}.{} {} = {}",
            listed.name(),
            value.name(),
            value.number()
        ));
    }
}

fn bare(name: &str) -> &str {
    name.trim_start_matches('.')
}

/// The samples of `testdata/samples.txt`, taken in their order.
struct Samples(std::vec::IntoIter<(&'static str, Vec<u8>)>);

impl Samples {
    fn read() -> Samples {
        let samples: Vec<_> = include_str!("../testdata/samples.txt")
            .lines()
            .filter(|line| !line.starts_with('#'))
            .map(|line| {
                let (name, hex) = line.split_once(' ').unwrap_or((line, ""));
                let bytes = (0..hex.len())
                    .step_by(2)
                    .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
                    .collect();
                (name, bytes)
            })
            .collect();
        Samples(samples.into_iter())
    }

    fn next<M: Message + Default>(&mut self, name: &str) -> (M, Vec<u8>) {
        let (sample, bytes) = self.0.next().unwrap();
        assert_eq!(sample, name);
        (M::decode(bytes.as_slice()).unwrap(), bytes)
    }

    /// Go's bytes read as `value`, and `value` is written as Go's bytes.
    fn same<M: Message + Default + PartialEq + Debug>(&mut self, name: &str, value: &M) {
        let (decoded, bytes) = self.next::<M>(name);
        assert_eq!(&decoded, value, "{name} decoded");
        assert_eq!(value.encode_to_vec(), bytes, "{name} encoded");
    }

    /// As `same`, where a `Compare` with both a target and a range_end is inside: Go writes the
    /// members of a oneof last, prost by number. The length is the same.
    fn same_but_for_order<M: Message + Default + PartialEq + Debug>(
        &mut self,
        name: &str,
        value: &M,
    ) {
        let (decoded, bytes) = self.next::<M>(name);
        assert_eq!(&decoded, value, "{name} decoded");
        assert_eq!(value.encoded_len(), bytes.len(), "{name} length");
        assert_eq!(
            M::decode(value.encode_to_vec().as_slice()).unwrap(),
            decoded
        );
    }
}

fn header() -> Option<pb::ResponseHeader> {
    Some(pb::ResponseHeader {
        cluster_id: 0xcdf8_1819_4e3a_8c32,
        member_id: 0x8e9e_05c5_2164_694d,
        revision: 300,
        raft_term: 2,
    })
}

fn key_value() -> mvccpb::KeyValue {
    mvccpb::KeyValue {
        key: Bytes::from_static(b"a\x00\xff"),
        create_revision: 2,
        mod_revision: 300,
        version: 3,
        value: Bytes::from_static(b"v"),
        lease: -7,
    }
}

fn tombstone() -> mvccpb::KeyValue {
    mvccpb::KeyValue {
        key: Bytes::from_static(b"a"),
        ..Default::default()
    }
}

fn put() -> pb::PutRequest {
    pb::PutRequest {
        key: Bytes::from_static(b"k"),
        value: Bytes::new(),
        lease: 1,
        prev_kv: true,
        ignore_value: true,
        ignore_lease: true,
    }
}

fn range() -> pb::RangeRequest {
    pb::RangeRequest {
        key: Bytes::from_static(b"a"),
        range_end: Bytes::from_static(b"\0"),
        limit: 10,
        revision: 5,
        sort_order: pb::range_request::SortOrder::Descend.into(),
        sort_target: pb::range_request::SortTarget::Value.into(),
        serializable: true,
        keys_only: true,
        count_only: true,
        min_mod_revision: 1,
        max_mod_revision: 2,
        min_create_revision: 3,
        max_create_revision: 4,
    }
}

fn txn() -> pb::TxnRequest {
    use pb::compare::{CompareResult, CompareTarget, TargetUnion};
    use pb::request_op::Request;
    let compare = |target: CompareTarget, union| pb::Compare {
        target: target.into(),
        key: Bytes::from_static(b"a"),
        target_union: Some(union),
        ..Default::default()
    };
    let op = |request| pb::RequestOp {
        request: Some(request),
    };
    let delete = pb::DeleteRangeRequest {
        key: Bytes::from_static(b"a"),
        range_end: Bytes::from_static(b"b"),
        prev_kv: true,
    };
    pb::TxnRequest {
        compare: vec![
            pb::Compare {
                result: CompareResult::NotEqual.into(),
                range_end: Bytes::from_static(b"z"),
                ..compare(CompareTarget::Lease, TargetUnion::Lease(9))
            },
            compare(CompareTarget::Version, TargetUnion::Version(0)),
            compare(
                CompareTarget::Value,
                TargetUnion::Value(Bytes::from_static(b"x")),
            ),
            compare(CompareTarget::Mod, TargetUnion::ModRevision(4)),
            compare(CompareTarget::Create, TargetUnion::CreateRevision(-1)),
            pb::Compare {
                key: Bytes::from_static(b"none"),
                ..Default::default()
            },
        ],
        success: vec![
            op(Request::RequestPut(put())),
            op(Request::RequestTxn(pb::TxnRequest {
                failure: vec![op(Request::RequestDeleteRange(delete))],
                ..Default::default()
            })),
        ],
        failure: vec![
            op(Request::RequestRange(range())),
            pb::RequestOp { request: None },
        ],
    }
}

#[test]
fn bytes_are_those_of_go() {
    let mut go = Samples::read();
    key_values(&mut go);
    watches(&mut go);
    maintenance(&mut go);
    leases_and_auth(&mut go);
    log_entries(&mut go);
    go.same(
        "HealthCheckResponse",
        &health::HealthCheckResponse {
            status: health::health_check_response::ServingStatus::NotServing.into(),
        },
    );
    assert_eq!(go.0.next(), None, "every sample was compared");
}

fn key_values(go: &mut Samples) {
    use pb::response_op::Response;
    go.same("KeyValue", &key_value());
    go.same("KeyValue", &tombstone());
    go.same("KeyValue", &mvccpb::KeyValue::default());
    go.same(
        "Event",
        &mvccpb::Event {
            r#type: mvccpb::event::EventType::Delete.into(),
            kv: Some(tombstone()),
            prev_kv: Some(key_value()),
        },
    );
    go.same("PutRequest", &put());
    go.same("RangeRequest", &range());
    go.same(
        "RangeResponse",
        &pb::RangeResponse {
            header: header(),
            kvs: vec![key_value(), tombstone()],
            more: true,
            count: 7,
        },
    );
    go.same_but_for_order("TxnRequest", &txn());
    let responses = [
        Response::ResponsePut(pb::PutResponse {
            header: Some(pb::ResponseHeader {
                revision: 301,
                ..Default::default()
            }),
            prev_kv: Some(key_value()),
        }),
        Response::ResponseTxn(pb::TxnResponse {
            header: Some(pb::ResponseHeader::default()),
            ..Default::default()
        }),
        Response::ResponseDeleteRange(pb::DeleteRangeResponse {
            header: None,
            deleted: 1,
            prev_kvs: vec![key_value()],
        }),
    ];
    go.same(
        "TxnResponse",
        &pb::TxnResponse {
            header: header(),
            succeeded: true,
            responses: responses
                .map(|response| pb::ResponseOp {
                    response: Some(response),
                })
                .into(),
        },
    );
}

fn watches(go: &mut Samples) {
    use pb::watch_request::RequestUnion;
    go.same(
        "WatchRequest",
        &pb::WatchRequest {
            request_union: Some(RequestUnion::CreateRequest(pb::WatchCreateRequest {
                key: Bytes::from_static(b"a"),
                range_end: Bytes::from_static(b"b"),
                start_revision: -3,
                progress_notify: true,
                filters: vec![0, 1],
                prev_kv: true,
                watch_id: 5,
                fragment: true,
            })),
        },
    );
    go.same(
        "WatchRequest",
        &pb::WatchRequest {
            request_union: Some(RequestUnion::ProgressRequest(pb::WatchProgressRequest {})),
        },
    );
    let deleted = mvccpb::Event {
        r#type: mvccpb::event::EventType::Delete.into(),
        kv: Some(tombstone()),
        prev_kv: None,
    };
    let changed = mvccpb::Event {
        kv: Some(key_value()),
        ..Default::default()
    };
    go.same(
        "WatchResponse",
        &pb::WatchResponse {
            header: header(),
            watch_id: -1,
            created: true,
            canceled: true,
            compact_revision: 4,
            cancel_reason: "why".to_owned(),
            fragment: true,
            events: vec![changed, deleted],
        },
    );
}

fn maintenance(go: &mut Samples) {
    go.same(
        "StatusResponse",
        &pb::StatusResponse {
            header: header(),
            version: "3.7.3".to_owned(),
            db_size: 1,
            leader: 2,
            raft_index: 3,
            raft_term: 4,
            raft_applied_index: 5,
            errors: vec!["etcdserver: no leader".to_owned(), String::new()],
            db_size_in_use: 6,
            is_learner: true,
            storage_version: "3.7.0".to_owned(),
            db_size_quota: 7,
            downgrade_info: Some(pb::DowngradeInfo {
                enabled: true,
                target_version: "3.6.0".to_owned(),
            }),
        },
    );
    let member = pb::Member {
        id: 1 << 63,
        name: "a".to_owned(),
        peer_urls: vec!["http://a:2380".to_owned(), "http://b:2380".to_owned()],
        client_urls: vec!["http://a:2379".to_owned()],
        is_learner: true,
    };
    go.same(
        "MemberListResponse",
        &pb::MemberListResponse {
            header: header(),
            members: vec![member, pb::Member::default()],
        },
    );
    go.same(
        "HashKVResponse",
        &pb::HashKvResponse {
            header: header(),
            hash: 0xdead_beef,
            compact_revision: 2,
            hash_revision: 9,
        },
    );
    go.same(
        "SnapshotResponse",
        &pb::SnapshotResponse {
            header: header(),
            remaining_bytes: 10,
            blob: Bytes::from_static(&[1, 2]),
            version: "3.7.3".to_owned(),
        },
    );
    go.same(
        "AlarmMember",
        &pb::AlarmMember {
            member_id: 0x8e9e_05c5_2164_694d,
            alarm: pb::AlarmType::Corrupt.into(),
        },
    );
}

fn leases_and_auth(go: &mut Samples) {
    go.same(
        "Lease",
        &leasepb::Lease {
            id: 7,
            ttl: 60,
            remaining_ttl: 30,
        },
    );
    go.same(
        "LeaseInternalRequest",
        &leasepb::LeaseInternalRequest {
            lease_time_to_live_request: Some(pb::LeaseTimeToLiveRequest { id: 7, keys: true }),
        },
    );
    go.same(
        "LeaseInternalResponse",
        &leasepb::LeaseInternalResponse {
            lease_time_to_live_response: Some(pb::LeaseTimeToLiveResponse {
                header: header(),
                id: 7,
                ttl: -1,
                granted_ttl: 60,
                keys: vec![Bytes::from_static(b"a"), Bytes::new()],
            }),
        },
    );
    go.same(
        "User",
        &authpb::User {
            name: Bytes::from_static(b"root"),
            password: Bytes::from_static(b"$2a$"),
            roles: vec!["root".to_owned()],
            options: Some(authpb::UserAddOptions { no_password: true }),
        },
    );
    go.same(
        "Role",
        &authpb::Role {
            name: Bytes::from_static(b"r"),
            key_permission: vec![authpb::Permission {
                perm_type: authpb::permission::Type::Readwrite.into(),
                key: Bytes::from_static(b"a"),
                range_end: Bytes::from_static(b"\0"),
            }],
        },
    );
}

fn log_entries(go: &mut Samples) {
    let request_header = Some(pb::RequestHeader {
        id: 0x1234_5678_90ab_cdef,
        username: "u".to_owned(),
        auth_revision: 3,
    });
    go.same(
        "InternalRaftRequest",
        &pb::InternalRaftRequest {
            header: request_header.clone(),
            put: Some(put()),
            ..Default::default()
        },
    );
    go.same_but_for_order(
        "InternalRaftRequest",
        &pb::InternalRaftRequest {
            header: request_header.clone(),
            id: 1,
            txn: Some(txn()),
            ..Default::default()
        },
    );
    // Every request at once, each field holding its own number; what each field is called is
    // compared above.
    let (all, bytes) = go.next::<pb::InternalRaftRequest>("InternalRaftRequest");
    assert_eq!(all.encoded_len(), bytes.len(), "no field is unknown to us");
    let role = all.auth_role_revoke_permission.unwrap();
    assert_eq!((role.role.as_str(), &role.key[..]), ("s1", &[0xff, 2][..]));
    assert_eq!(
        all.lease_checkpoint.unwrap().checkpoints[0].remaining_ttl,
        -2
    );
    assert_eq!(all.downgrade_version_test.unwrap().ver, "s1");
    assert!(all.authenticate.unwrap().simple_token == "s3");
    let attributes = membershippb::Attributes {
        name: "m".to_owned(),
        client_urls: vec!["http://a:2379".to_owned()],
    };
    go.same(
        "InternalRaftRequest",
        &pb::InternalRaftRequest {
            header: request_header,
            cluster_member_attr_set: Some(membershippb::ClusterMemberAttrSetRequest {
                member_id: 5,
                member_attributes: Some(attributes),
            }),
            ..Default::default()
        },
    );
}

/// etcd 3.5 publishes a member's name so; bytes by hand from its field numbers.
#[test]
fn a_v2_request_of_an_older_etcd_is_read() {
    let path = b"/0/members/8e9e05c52164694d/attributes";
    let mut v2 = vec![0x08, 0x05, 0x12, 3];
    v2.extend(b"PUT");
    v2.extend([0x1a, u8::try_from(path.len()).unwrap()]);
    v2.extend(path);
    v2.extend([0x22, 2]);
    v2.extend(b"{}");
    // gogo writes the zero values too; PrevExist and Refresh only when set.
    v2.extend([
        0x28, 0, 0x32, 0, 0x38, 0, 0x48, 0, 0x50, 0, 0x58, 0, 0x60, 0, 0x68, 0, 0x70, 0,
    ]);
    v2.extend([0x78, 0, 0x80, 1, 0]);
    let mut entry = vec![0x12, u8::try_from(v2.len()).unwrap()];
    entry.extend(v2);
    let request = pb::InternalRaftRequest::decode(entry.as_slice()).unwrap();
    let v2 = request.v2.unwrap();
    assert_eq!(
        (v2.id, v2.method.as_str(), v2.val.as_str()),
        (5, "PUT", "{}")
    );
    assert_eq!(v2.path.as_bytes(), path);
    assert_eq!((v2.prev_exist, v2.refresh), (None, None));
}

#[test]
fn debug_shows_no_secret() {
    let hidden = "s3cr3t".to_owned();
    let request = pb::InternalRaftRequest {
        auth_user_add: Some(pb::AuthUserAddRequest {
            name: "alice".to_owned(),
            password: hidden.clone(),
            hashed_password: hidden.clone(),
            options: None,
        }),
        auth_user_change_password: Some(pb::AuthUserChangePasswordRequest {
            name: "bob".to_owned(),
            password: hidden.clone(),
            hashed_password: hidden.clone(),
        }),
        authenticate: Some(pb::InternalAuthenticateRequest {
            name: "carol".to_owned(),
            password: hidden.clone(),
            simple_token: hidden.clone(),
        }),
        ..Default::default()
    };
    let user = authpb::User {
        password: hidden.clone().into(),
        ..Default::default()
    };
    let answer = pb::AuthenticateResponse {
        header: None,
        token: hidden.clone(),
    };
    let asked = pb::AuthenticateRequest {
        name: "dave".to_owned(),
        password: hidden.clone(),
    };
    let shown = format!("{request:?} {user:?} {answer:?} {asked:?}");
    assert!(!shown.contains(&hidden), "{shown}");
    for name in ["alice", "bob", "carol", "dave"] {
        assert!(shown.contains(name), "{shown}");
    }
}

proptest::proptest! {
    /// Nothing that comes in can end the process, and what is read can be written and read.
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..64)) {
        if let Ok(request) = pb::InternalRaftRequest::decode(bytes.as_slice()) {
            let again = pb::InternalRaftRequest::decode(request.encode_to_vec().as_slice());
            proptest::prop_assert_eq!(again, Ok(request));
        }
        let _ = mvccpb::KeyValue::decode(Bytes::from(bytes));
    }
}
