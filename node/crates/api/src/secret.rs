//! `Debug` for messages that hold a password, its hash or a token: names, never secrets.

use std::fmt::{Debug, Formatter, Result};

use crate::authpb::User;
use crate::etcdserverpb::{
    AuthUserAddRequest, AuthUserChangePasswordRequest, AuthenticateRequest, AuthenticateResponse,
    InternalAuthenticateRequest,
};

macro_rules! debug_without_secrets {
    ($($message:ident { $($shown:ident),* })*) => {$(
        impl Debug for $message {
            fn fmt(&self, f: &mut Formatter<'_>) -> Result {
                f.debug_struct(stringify!($message))
                    $(.field(stringify!($shown), &self.$shown))*
                    .finish_non_exhaustive()
            }
        }
    )*};
}

debug_without_secrets! {
    User { name, roles, options }
    AuthenticateRequest { name }
    AuthenticateResponse { header }
    AuthUserAddRequest { name, options }
    AuthUserChangePasswordRequest { name }
    InternalAuthenticateRequest { name }
}
