//! # raftpb: etcd's raft messages
#![forbid(unsafe_code)]

#[expect(missing_docs, reason = "generated from proto/raftpb.proto, which has the comments")]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/raftpb.rs"));
}
pub use generated::*;

/// The id of a member, as in raft (`from`, `to`, voters). etcd prints it in lower-case
/// hexadecimal without padding, and so does this type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId(pub u64);

impl std::fmt::Display for MemberId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:x}", self.0)
    }
}
