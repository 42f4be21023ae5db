//! JSON byte for byte as Go's `encoding/json` writes it.
//!
//! Members travel in conf-change entries and lie in the database as JSON that etcd wrote.
//! Go escapes `<`, `>` and `&`, and the two Unicode line separators, keeps the order of a
//! struct's fields, and writes a nil slice as `null`. Reading is as forgiving as Go's: keys
//! match without regard to case, unknown ones are skipped, `null` leaves the zero value.

use raftpb::ConfState;
use raftpb::conf::{Member, go_json};
use serde::Serialize;
use serde_json::Value;

use crate::{DowngradeInfo, Error, MemberId};

/// Longest JSON document read: a member with its URLs is a few hundred bytes; the largest
/// legitimate document is the member list of a big cluster. Beyond this it is no member list.
pub const JSON_BYTES_MAX: usize = 1 << 20;

/// The body of `GET /members`: an array in the order given, and a line feed.
#[must_use]
pub fn encode_member_list<'a>(members: impl IntoIterator<Item = &'a Member>) -> String {
    let members: Vec<&Member> = members.into_iter().collect();
    if members.is_empty() {
        // A Go slice that nobody appended to is nil.
        "null\n".to_owned()
    } else {
        go_json(&members) + "\n"
    }
}

/// A member's peer URLs and whether it learns, as the v2 store keeps them.
#[must_use]
pub fn encode_raft_attributes(member: &Member) -> String {
    #[derive(Serialize)]
    struct RaftAttributes<'a> {
        #[serde(rename = "peerURLs")]
        peer_urls: Option<&'a Vec<String>>,
        #[serde(rename = "isLearner", skip_serializing_if = "std::ops::Not::not")]
        is_learner: bool,
    }
    go_json(&RaftAttributes {
        peer_urls: Some(&member.peer_urls).filter(|urls| !urls.is_empty()),
        is_learner: member.is_learner,
    })
}

/// A member's name and client URLs, as the v2 store and the publish request of etcd 3.5 have
/// them.
#[must_use]
pub fn encode_attributes(member: &Member) -> String {
    #[derive(Serialize)]
    struct Attributes<'a> {
        #[serde(skip_serializing_if = "str::is_empty")]
        name: &'a str,
        #[serde(rename = "clientURLs", skip_serializing_if = "<[String]>::is_empty")]
        client_urls: &'a [String],
    }
    go_json(&Attributes {
        name: &member.name,
        client_urls: &member.client_urls,
    })
}

/// The value of `meta/confState`. `auto_leave` is always written: raft sets it, also to false.
#[must_use]
pub fn encode_conf_state(state: &ConfState) -> String {
    #[derive(Serialize)]
    struct Fields<'a> {
        #[serde(skip_serializing_if = "<[u64]>::is_empty")]
        voters: &'a [u64],
        #[serde(skip_serializing_if = "<[u64]>::is_empty")]
        learners: &'a [u64],
        #[serde(skip_serializing_if = "<[u64]>::is_empty")]
        voters_outgoing: &'a [u64],
        #[serde(skip_serializing_if = "<[u64]>::is_empty")]
        learners_next: &'a [u64],
        auto_leave: bool,
    }
    go_json(&Fields {
        voters: &state.voters,
        learners: &state.learners,
        voters_outgoing: &state.voters_outgoing,
        learners_next: &state.learners_next,
        auto_leave: state.auto_leave,
    })
}

/// The value of `cluster/downgrade`.
#[must_use]
pub fn encode_downgrade(info: &DowngradeInfo) -> String {
    #[derive(Serialize)]
    struct Fields<'a> {
        #[serde(rename = "target-version")]
        target_version: &'a str,
        enabled: bool,
    }
    go_json(&Fields {
        target_version: &info.target_version,
        enabled: info.enabled,
    })
}

/// Reads a member; what it lacks stays zero.
///
/// # Errors
/// [`Error::BadJson`].
pub fn decode_member(bytes: &[u8]) -> Result<Member, Error> {
    member_of(&parse("member", bytes)?, "member")
}

/// Reads the context of an add: the member and `isPromote`.
///
/// # Errors
/// [`Error::BadJson`].
pub fn decode_context(bytes: &[u8]) -> Result<(Member, bool), Error> {
    let value = parse("conf change context", bytes)?;
    let member = member_of(&value, "conf change context")?;
    Ok((member, boolean(&value, "isPromote", "conf change context")?))
}

/// Reads the body of another member's `GET /members`.
///
/// # Errors
/// [`Error::BadJson`].
pub fn decode_member_list(bytes: &[u8]) -> Result<Vec<Member>, Error> {
    match parse("member list", bytes)? {
        Value::Null => Ok(Vec::new()),
        Value::Array(values) => values
            .iter()
            .map(|value| member_of(value, "member list"))
            .collect(),
        _ => Err(bad("member list", "not an array")),
    }
}

/// Reads name and client URLs as etcd 3.5 publishes them.
///
/// # Errors
/// [`Error::BadJson`].
pub fn decode_attributes(bytes: &[u8]) -> Result<(String, Vec<String>), Error> {
    let value = parse("member attributes", bytes)?;
    Ok((
        string(&value, "name", "member attributes")?,
        strings(&value, "clientURLs", "member attributes")?,
    ))
}

/// Reads the value of `cluster/downgrade`.
///
/// # Errors
/// [`Error::BadJson`].
pub fn decode_downgrade(bytes: &[u8]) -> Result<DowngradeInfo, Error> {
    let value = parse("downgrade info", bytes)?;
    Ok(DowngradeInfo {
        target_version: string(&value, "target-version", "downgrade info")?,
        enabled: boolean(&value, "enabled", "downgrade info")?,
    })
}

/// Reads the value of `meta/confState`.
///
/// # Errors
/// [`Error::BadJson`].
pub fn decode_conf_state(bytes: &[u8]) -> Result<ConfState, Error> {
    const WHAT: &str = "conf state";
    let value = parse(WHAT, bytes)?;
    let ids = |name: &str| match field(&value, name) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(ids)) => ids
            .iter()
            .map(|id| {
                id.as_u64()
                    .ok_or_else(|| bad(WHAT, "an ID that is no number"))
            })
            .collect(),
        Some(_) => Err(bad(WHAT, "IDs that are no array")),
    };
    Ok(ConfState {
        voters: ids("voters")?,
        learners: ids("learners")?,
        voters_outgoing: ids("voters_outgoing")?,
        learners_next: ids("learners_next")?,
        auto_leave: boolean(&value, "auto_leave", WHAT)?,
    })
}

fn member_of(value: &Value, what: &'static str) -> Result<Member, Error> {
    if !value.is_object() && !value.is_null() {
        return Err(bad(what, "not an object"));
    }
    let id = match field(value, "id") {
        None | Some(Value::Null) => 0,
        Some(id) => id.as_u64().ok_or_else(|| bad(what, "id is no number"))?,
    };
    Ok(Member {
        id: MemberId(id),
        peer_urls: strings(value, "peerURLs", what)?,
        is_learner: boolean(value, "isLearner", what)?,
        name: string(value, "name", what)?,
        client_urls: strings(value, "clientURLs", what)?,
    })
}

fn parse(what: &'static str, bytes: &[u8]) -> Result<Value, Error> {
    if bytes.len() > JSON_BYTES_MAX {
        return Err(bad(what, "longer than 1 MiB"));
    }
    // Go replaces invalid UTF-8 inside strings and goes on.
    let value: Value =
        serde_json::from_str(&String::from_utf8_lossy(bytes)).map_err(|error| Error::BadJson {
            what,
            reason: error.to_string(),
        })?;
    Ok(value)
}

fn bad(what: &'static str, reason: &str) -> Error {
    Error::BadJson {
        what,
        reason: reason.to_owned(),
    }
}

fn field<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    let object = value.as_object()?;
    object.get(name).or_else(|| {
        object
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    })
}

fn string(value: &Value, name: &str, what: &'static str) -> Result<String, Error> {
    match field(value, name) {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(_) => Err(bad(what, &format!("{name} is no string"))),
    }
}

fn boolean(value: &Value, name: &str, what: &'static str) -> Result<bool, Error> {
    match field(value, name) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(flag)) => Ok(*flag),
        Some(_) => Err(bad(what, &format!("{name} is no boolean"))),
    }
}

fn strings(value: &Value, name: &str, what: &'static str) -> Result<Vec<String>, Error> {
    match field(value, name) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(texts)) => texts
            .iter()
            .map(|text| match text {
                Value::String(text) => Ok(text.clone()),
                Value::Null => Ok(String::new()),
                _ => Err(bad(
                    what,
                    &format!("{name} holds something that is no string"),
                )),
            })
            .collect(),
        Some(_) => Err(bad(what, &format!("{name} is no array"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member() -> Member {
        Member {
            id: MemberId(10_501_334_649_042_878_790),
            peer_urls: vec!["http://127.0.0.1:2380".to_owned()],
            is_learner: true,
            name: "a<b".to_owned(),
            client_urls: vec!["http://127.0.0.1:2379".to_owned()],
        }
    }

    #[test]
    fn a_member_reads_back_as_written() {
        let text = member().to_json();
        assert_eq!(decode_member(text.as_bytes()).expect("own text"), member());
        let list = encode_member_list([&member(), &member()]);
        assert_eq!(list, format!("[{text},{text}]\n"));
        assert_eq!(
            decode_member_list(list.as_bytes()).expect("own text"),
            [member(), member()]
        );
        assert_eq!(encode_member_list([]), "null\n");
        assert_eq!(decode_member_list(b"null\n").expect("no member"), []);

        let attributes = encode_attributes(&member());
        assert_eq!(
            attributes,
            r#"{"name":"a\u003cb","clientURLs":["http://127.0.0.1:2379"]}"#
        );
        assert_eq!(
            decode_attributes(attributes.as_bytes()).expect("own text"),
            (member().name, member().client_urls)
        );
        assert_eq!(
            encode_raft_attributes(&member()),
            r#"{"peerURLs":["http://127.0.0.1:2380"],"isLearner":true}"#
        );
        assert_eq!(
            encode_raft_attributes(&Member::default()),
            r#"{"peerURLs":null}"#
        );
    }

    #[test]
    fn reads_what_go_reads() {
        let read =
            decode_member(br#" {"ID":3,"PEERurls":["x",null],"more":{"a":[1]},"isLearner":null} "#);
        let read = read.expect("case, unknown keys and nulls do not matter");
        assert_eq!(read.id, MemberId(3));
        assert_eq!(read.peer_urls, ["x", ""]);
        for text in [
            &b""[..],
            b"{",
            b"[]x",
            br#"{"id":-1}"#,
            br#"{"id":"3"}"#,
            br#"{"id":1.5}"#,
            br#"{"peerURLs":"x"}"#,
        ] {
            assert!(
                decode_member(text).is_err(),
                "{}",
                String::from_utf8_lossy(text)
            );
        }
    }

    #[test]
    fn conf_state_and_downgrade() {
        let state = ConfState {
            voters: vec![1, u64::MAX],
            learners: vec![3],
            ..ConfState::default()
        };
        let text = encode_conf_state(&state);
        assert_eq!(
            text,
            r#"{"voters":[1,18446744073709551615],"learners":[3],"auto_leave":false}"#
        );
        assert_eq!(decode_conf_state(text.as_bytes()).expect("own text"), state);
        let info = DowngradeInfo {
            target_version: "3.6.0".to_owned(),
            enabled: true,
        };
        let text = encode_downgrade(&info);
        assert_eq!(text, r#"{"target-version":"3.6.0","enabled":true}"#);
        assert_eq!(decode_downgrade(text.as_bytes()).expect("own text"), info);
    }
}
