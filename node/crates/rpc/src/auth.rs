//! Auth: not there yet. What can be said without it is said as etcd does while auth is off; what
//! would change users, roles or the switch is refused before raft hears of it, since other members
//! would act on the entry and we would not.

use std::sync::Arc;

use api::Code;
use api::etcdserverpb as pb;

use crate::door::Door;
use crate::grpc::Status;

/// The methods that are refused.
pub const METHODS: &[&str] = &[
    "AuthEnable",
    "AuthDisable",
    "UserAdd",
    "UserGet",
    "UserList",
    "UserDelete",
    "UserChangePassword",
    "UserGrantRole",
    "UserRevokeRole",
    "RoleAdd",
    "RoleGet",
    "RoleList",
    "RoleDelete",
    "RoleGrantPermission",
    "RoleRevokePermission",
];

/// The refusal.
pub fn not_there(method: &str) -> Status {
    Status::new(
        Code::Unimplemented,
        format!("etcdserver: {method} is not supported: this version of quorate has no auth"),
    )
}

/// The revision of an auth store in which nothing was ever changed.
const REVISION_FIRST: u64 = 1;

/// Auth.AuthStatus: off.
pub async fn status(
    door: Arc<Door>,
    _: pb::AuthStatusRequest,
) -> Result<pb::AuthStatusResponse, Status> {
    let header = door.header(door.member.state().mvcc.revision());
    Ok(pb::AuthStatusResponse {
        header: Some(header),
        enabled: false,
        auth_revision: REVISION_FIRST,
    })
}

/// Auth.Authenticate: clients that were given a user go on without when they hear this.
pub async fn authenticate(
    _: Arc<Door>,
    _: pb::AuthenticateRequest,
) -> Result<pb::AuthenticateResponse, Status> {
    Err(api::Error::AuthNotEnabled.into())
}
