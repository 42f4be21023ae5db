//! The buckets that etcd keeps.

/// One of etcd's buckets. Any further bucket in a file is kept as it is, and can be read by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Bucket {
    /// Revisions: 17-byte keys (18 for a tombstone), append-mostly.
    Key,
    /// Consistent index, term, conf state, compaction marks, storage version.
    Meta,
    /// Leases by id.
    Lease,
    /// Raised alarms.
    Alarm,
    /// Cluster version and downgrade.
    Cluster,
    /// Members by hexadecimal id.
    Members,
    /// Removed members by hexadecimal id.
    MembersRemoved,
    /// Whether auth is on, and its revision.
    Auth,
    /// Users by name.
    AuthUsers,
    /// Roles by name.
    AuthRoles,
}

/// How many buckets etcd keeps.
pub(crate) const BUCKETS: usize = Bucket::ALL.len();

impl Bucket {
    /// All of them, in the order of the enum.
    pub const ALL: [Bucket; 10] = [
        Bucket::Key,
        Bucket::Meta,
        Bucket::Lease,
        Bucket::Alarm,
        Bucket::Cluster,
        Bucket::Members,
        Bucket::MembersRemoved,
        Bucket::Auth,
        Bucket::AuthUsers,
        Bucket::AuthRoles,
    ];

    /// Its name in the file (etcd's `storage/schema/bucket.go`).
    pub const fn name(self) -> &'static [u8] {
        match self {
            Bucket::Key => b"key",
            Bucket::Meta => b"meta",
            Bucket::Lease => b"lease",
            Bucket::Alarm => b"alarm",
            Bucket::Cluster => b"cluster",
            Bucket::Members => b"members",
            Bucket::MembersRemoved => b"members_removed",
            Bucket::Auth => b"auth",
            Bucket::AuthUsers => b"authUsers",
            Bucket::AuthRoles => b"authRoles",
        }
    }

    /// The bucket of this name, if it is one of etcd's.
    pub fn from_name(name: &[u8]) -> Option<Bucket> {
        Bucket::ALL.into_iter().find(|bucket| bucket.name() == name)
    }

    pub(crate) const fn index(self) -> usize {
        self as usize
    }

    /// How full new pages become before the next is begun, in percent. etcd sets 90 for puts in
    /// key order (the `key` bucket) and leaves bbolt's 50 elsewhere.
    pub(crate) const fn fill_percent(self) -> usize {
        match self {
            Bucket::Key => 90,
            _ => FILL_PERCENT_DEFAULT,
        }
    }
}

/// bbolt's default: keys that arrive in no order leave room on both sides of a split.
pub(crate) const FILL_PERCENT_DEFAULT: usize = 50;
