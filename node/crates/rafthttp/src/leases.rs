//! The four small messages of `/leases` and `/leases/internal`, by etcd's field numbers.

use bytes::Bytes;
use prost::Message;

use crate::ports::LeaseTimeToLive;

#[derive(Clone, PartialEq, Message)]
struct RenewRequest {
    #[prost(int64, tag = "1")]
    id: i64,
}

#[derive(Clone, PartialEq, Message)]
struct RenewAnswer {
    #[prost(int64, tag = "2")]
    id: i64,
    #[prost(int64, tag = "3")]
    ttl: i64,
}

#[derive(Clone, PartialEq, Message)]
struct InternalRequest {
    #[prost(message, optional, tag = "1")]
    time_to_live: Option<TimeToLiveRequest>,
}

#[derive(Clone, PartialEq, Message)]
struct TimeToLiveRequest {
    #[prost(int64, tag = "1")]
    id: i64,
    #[prost(bool, tag = "2")]
    keys: bool,
}

#[derive(Clone, PartialEq, Message)]
struct InternalAnswer {
    #[prost(message, optional, tag = "1")]
    time_to_live: Option<TimeToLiveAnswer>,
}

#[derive(Clone, PartialEq, Message)]
struct TimeToLiveAnswer {
    /// etcd sends it and sends it empty.
    #[prost(message, optional, tag = "1")]
    header: Option<EmptyHeader>,
    #[prost(int64, tag = "2")]
    id: i64,
    #[prost(int64, tag = "3")]
    ttl: i64,
    #[prost(int64, tag = "4")]
    granted_ttl: i64,
    #[prost(bytes = "bytes", repeated, tag = "5")]
    keys: Vec<Bytes>,
}

#[derive(Clone, PartialEq, Message)]
struct EmptyHeader {}

pub(crate) fn renew_request(id: i64) -> Bytes {
    RenewRequest { id }.encode_to_vec().into()
}

pub(crate) fn read_renew(body: Bytes) -> Option<i64> {
    RenewRequest::decode(body).ok().map(|request| request.id)
}

pub(crate) fn renew_answer(id: i64, ttl: i64) -> Bytes {
    RenewAnswer { id, ttl }.encode_to_vec().into()
}

/// The lease and its time to live.
pub(crate) fn read_renew_answer(body: Bytes) -> Result<(i64, i64), prost::DecodeError> {
    RenewAnswer::decode(body).map(|answer| (answer.id, answer.ttl))
}

pub(crate) fn time_to_live_request(id: i64, keys: bool) -> Bytes {
    let time_to_live = Some(TimeToLiveRequest { id, keys });
    InternalRequest { time_to_live }.encode_to_vec().into()
}

/// The lease, and whether its keys are asked for.
pub(crate) fn read_time_to_live(body: Bytes) -> Option<(i64, bool)> {
    let request = InternalRequest::decode(body).ok()?.time_to_live?;
    Some((request.id, request.keys))
}

pub(crate) fn time_to_live_answer(lease: LeaseTimeToLive) -> Bytes {
    let time_to_live = Some(TimeToLiveAnswer {
        header: Some(EmptyHeader {}),
        id: lease.id,
        ttl: lease.ttl,
        granted_ttl: lease.granted_ttl,
        keys: lease.keys,
    });
    InternalAnswer { time_to_live }.encode_to_vec().into()
}

pub(crate) fn read_time_to_live_answer(
    body: Bytes,
) -> Result<Option<LeaseTimeToLive>, prost::DecodeError> {
    let answer = InternalAnswer::decode(body)?.time_to_live;
    Ok(answer.map(|answer| LeaseTimeToLive {
        id: answer.id,
        ttl: answer.ttl,
        granted_ttl: answer.granted_ttl,
        keys: answer.keys,
    }))
}
