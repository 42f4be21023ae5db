//! Entries that members of version 3.5 and 3.6 write: requests of the v2 store, which is
//! gone. Two of them still mean something.

use api::etcdserverpb::RequestV2;
use membership::{MemberId, json};

/// What a v2 request says about the cluster.
pub(crate) enum LegacyRequest {
    /// `PUT /0/members/<hexadecimal ID>/attributes`: a member publishes its name and client
    /// URLs. This is how 3.5 does it.
    Attributes {
        id: MemberId,
        name: String,
        client_urls: Vec<String>,
    },
    /// `PUT /0/version`: the cluster's version, in clusters that were older than 3.5.
    Version(String),
}

/// Reads a v2 request. Others than the two changed the v2 store alone: nothing here.
pub(crate) fn read(request: &RequestV2) -> Result<LegacyRequest, String> {
    let ignored = || format!("v2 request {} {:?}", request.method, request.path);
    if request.method != "PUT" {
        return Err(ignored());
    }
    if request.path == "/0/version" {
        return Ok(LegacyRequest::Version(request.val.clone()));
    }
    let id = request
        .path
        .strip_prefix("/0/members/")
        .and_then(|rest| rest.strip_suffix("/attributes"))
        .filter(|id| id.len() <= 16)
        .and_then(MemberId::from_hex)
        .ok_or_else(ignored)?;
    let (name, client_urls) = json::decode_attributes(request.val.as_bytes())
        .map_err(|error| format!("{}: {error}", ignored()))?;
    Ok(LegacyRequest::Attributes {
        id,
        name,
        client_urls,
    })
}
