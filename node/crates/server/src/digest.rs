//! The digest of a membership: what a caller saw, in eight bytes.
//!
//! One line per member, `<id, 16 hexadecimal digits> voter|learner <peer URLs>` and a newline,
//! the URLs sorted and joined by `,`, the lines sorted as bytes; SHA-256; the first 8 bytes as 16
//! hexadecimal digits. Everybody can compute it from MemberList, etcd's too. Names and client
//! URLs are left out: they change without a membership change.

use std::fmt::{Display, Formatter};

use membership::Member;
use sha2::{Digest as _, Sha256};

/// A membership in eight bytes. Equal digests mean equal membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Digest(u64);

impl Digest {
    /// Of these members, in any order.
    pub fn of<'a>(members: impl IntoIterator<Item = &'a Member>) -> Digest {
        let mut lines: Vec<String> = members.into_iter().map(line).collect();
        lines.sort_unstable();
        let hash = Sha256::digest(lines.concat());
        let mut first = [0; 8];
        first.copy_from_slice(&hash[..8]);
        Digest(u64::from_be_bytes(first))
    }

    /// Reads 16 hexadecimal digits.
    pub fn parse(text: &str) -> Option<Digest> {
        let digits = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        digits
            .then(|| u64::from_str_radix(text, 16).ok())?
            .map(Digest)
    }
}

fn line(member: &Member) -> String {
    let mut urls: Vec<&str> = member.peer_urls.iter().map(String::as_str).collect();
    urls.sort_unstable();
    let role = if member.is_learner {
        "learner"
    } else {
        "voter"
    };
    format!("{:016x} {role} {}\n", member.id.0, urls.join(","))
}

impl From<u64> for Digest {
    fn from(number: u64) -> Digest {
        Digest(number)
    }
}

impl From<Digest> for u64 {
    fn from(digest: Digest) -> u64 {
        digest.0
    }
}

impl Display for Digest {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use raftpb::MemberId;

    use super::*;

    fn members() -> Vec<Member> {
        let member = |id, urls: &[&str], is_learner| Member {
            id: MemberId(id),
            peer_urls: urls.iter().map(|url| (*url).to_owned()).collect(),
            is_learner,
            ..Member::default()
        };
        vec![
            member(
                0x8211_f1d0_f64f_3269,
                &["http://10.0.0.1:2380", "http://a.example:2380"],
                false,
            ),
            member(0xa1, &["http://10.0.0.2:2380"], true),
        ]
    }

    /// The example of `docs/membership.md`, worked out by `sha256sum`.
    #[test]
    fn the_documented_example() {
        const DOCUMENT: &str = include_str!("../../../../docs/membership.md");
        let (_, rest) = DOCUMENT
            .split_once("the digest of these two members is `")
            .expect("the sentence");
        let (digest, rest) = rest.split_once("`:\n\n```\n").expect("the digest");
        let (lines, _) = rest.split_once("```").expect("the lines");
        let mut ours: Vec<String> = members().iter().map(line).collect();
        ours.sort();
        assert_eq!(ours.concat(), lines);
        assert_eq!(Digest::of(&members()).to_string(), digest);
        assert_eq!(digest, "cdd48d4524601b8a");
    }

    #[test]
    fn order_and_names_do_not_matter_and_roles_do() {
        let digest = Digest::of(&members());
        let mut turned = members();
        turned.reverse();
        turned[1].peer_urls.reverse();
        turned[0].name = "a".to_owned();
        assert_eq!(Digest::of(&turned), digest);
        turned[0].is_learner = false;
        assert_ne!(Digest::of(&turned), digest);
    }

    #[test]
    fn only_sixteen_hexadecimal_digits_are_read() {
        let text = Digest::of(&members()).to_string();
        assert_eq!(Digest::parse(&text), Some(Digest::of(&members())));
        for bad in [
            "",
            "1",
            "cdd48d4524601b8g",
            "+dd48d4524601b8a",
            "00cdd48d4524601b8a",
        ] {
            assert_eq!(Digest::parse(bad), None, "{bad}");
        }
    }
}
