//! # api: the words that clients and members exchange
//!
//! etcd's client API, version 3.7: its messages, its services, its errors. The `.proto` files
//! in `proto/` are our own text over etcd's names and field numbers; the build compiles them,
//! without protoc. Byte fields are [`bytes::Bytes`], slices of the buffer they came in.
//!
//! ```text
//!   mvccpb         KeyValue, Event                    on the wire, in the database, in hashes
//!   etcdserverpb   the client API; InternalRaftRequest, what the log carries
//!   authpb         users and roles                    on the wire, in the database
//!   membershippb   attributes and versions            in the log
//!   leasepb        leases                             in the database, between members
//!   health         grpc.health.v1
//!   Error          every error that a client can see, with its code: one table
//! ```
//!
//! Without features there are messages only, and no tonic. The feature `client` adds
//! `etcdserverpb::kv_client::KvClient` and so on, `server` adds `etcdserverpb::kv_server::{Kv,
//! KvServer}` and so on; either of them adds `From<Error> for tonic::Status`.
//!
//! This room does not know: what a request means, who asks, any connection.
#![forbid(unsafe_code)]

mod error;
mod secret;

pub use error::{Code, Error, OURS};

/// All our proto files as one `google.protobuf.FileDescriptorSet`, with etcd's own field names,
/// which JSON uses.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

macro_rules! package {
    ($(#[$doc:meta])* $name:ident, $file:literal) => {
        $(#[$doc])*
        #[allow(
            missing_docs,
            clippy::all,
            clippy::pedantic,
            reason = "generated; the proto files have the comments"
        )]
        pub mod $name {
            include!(concat!(env!("OUT_DIR"), "/", $file, ".rs"));
        }
    };
}

package!(
    /// Users, roles and permissions.
    authpb,
    "authpb"
);
package!(
    /// The client API, and the request that a log entry carries.
    etcdserverpb,
    "etcdserverpb"
);
package!(
    /// `grpc.health.v1`, gRPC's standard health service.
    health,
    "grpc.health.v1"
);
package!(
    /// Leases on disk and between members.
    leasepb,
    "leasepb"
);
package!(
    /// Members and versions in the log.
    membershippb,
    "membershippb"
);
package!(
    /// Keys with their values, and what happened to them.
    mvccpb,
    "mvccpb"
);
