//! Requests about users, roles and permissions.
//!
//! The store for them is not built yet (a later issue brings the room `auth`). Until then
//! this member can be in clusters where auth was never used. What would change users, roles
//! or permissions stops it: a member that left such an entry out would let in whom the
//! others refuse. It can be started again with a version that has the room. Questions are
//! passed over: nobody here asked them.

use std::ops::ControlFlow;

use api::etcdserverpb::InternalRaftRequest;
use backend::{Bucket, View};

use crate::Fatal;

const ENABLED_KEY: &[u8] = b"authEnabled";

/// Whether a database can be served without the room `auth`.
pub(crate) fn check_unused(view: &View) -> Result<(), Fatal> {
    let mut used = view
        .get(Bucket::Auth, ENABLED_KEY)?
        .is_some_and(|value| value[..] == [1]);
    for bucket in [Bucket::AuthUsers, Bucket::AuthRoles] {
        view.scan(bucket, &[], None, &mut |_, _| {
            used = true;
            ControlFlow::Break(())
        })?;
    }
    if used {
        return Err(Fatal::Unsupported {
            index: 0,
            what: "users, roles or authentication in the database",
        });
    }
    Ok(())
}

/// The name of a request that changes what auth decides by.
pub(crate) fn change(request: &InternalRaftRequest) -> Option<&'static str> {
    let changes = [
        (request.auth_enable.is_some(), "auth enable"),
        (request.auth_user_add.is_some(), "auth user add"),
        (request.auth_user_delete.is_some(), "auth user delete"),
        (
            request.auth_user_change_password.is_some(),
            "auth user change password",
        ),
        (
            request.auth_user_grant_role.is_some(),
            "auth user grant role",
        ),
        (
            request.auth_user_revoke_role.is_some(),
            "auth user revoke role",
        ),
        (request.auth_role_add.is_some(), "auth role add"),
        (request.auth_role_delete.is_some(), "auth role delete"),
        (
            request.auth_role_grant_permission.is_some(),
            "auth role grant permission",
        ),
        (
            request.auth_role_revoke_permission.is_some(),
            "auth role revoke permission",
        ),
    ];
    changes
        .into_iter()
        .find(|(is_set, _)| *is_set)
        .map(|(_, name)| name)
}

/// The name of a request that only reads, or changes nothing where auth is off.
pub(crate) fn question(request: &InternalRaftRequest) -> Option<&'static str> {
    let questions = [
        (request.auth_status.is_some(), "auth status"),
        (request.auth_disable.is_some(), "auth disable"),
        (request.authenticate.is_some(), "authenticate"),
        (request.auth_user_get.is_some(), "auth user get"),
        (request.auth_user_list.is_some(), "auth user list"),
        (request.auth_role_get.is_some(), "auth role get"),
        (request.auth_role_list.is_some(), "auth role list"),
    ];
    questions
        .into_iter()
        .find(|(is_set, _)| *is_set)
        .map(|(_, name)| name)
}
