//! What must differ between two clusters that do the same: IDs, ports, times, sizes.

use testkit::Cluster;

use super::cases::Case;

/// Fields whose numbers differ: positions in the log depend on elections, sizes on the pages that
/// a batch touched.
const NUMBERS: &[&str] = &[
    "raftterm",
    "raftindex",
    "raftappliedindex",
    "dbsize",
    "dbsizeinuse",
];

/// What a second downgrade hears, until the leader has lowered the cluster's version.
const DOWNGRADE_UNDER_WAY: &str = "cluster has a downgrade job in progress";

/// What is known of one cluster, and its placeholder.
pub struct Mask {
    /// name, as the table writes it behind `$`, and value
    values: Vec<(String, String)>,
    /// text, and what stands for it
    known: Vec<(String, String)>,
}

impl Mask {
    /// Learns IDs and addresses from the cluster itself.
    pub fn new(cluster: &Cluster) -> Self {
        let mut mask = Self {
            values: Vec::new(),
            known: Vec::new(),
        };
        let list = cluster.members[0].etcdctl().json(&["member", "list"]);
        let cluster_id = list["header"]["cluster_id"]
            .as_u64()
            .expect("the cluster's ID");
        mask.know("cluster", cluster_id);
        for (index, member) in cluster.members.iter().enumerate() {
            let members = list["members"].as_array().expect("members");
            if let Some(known) = members
                .iter()
                .find(|one| one["peerURLs"][0] == member.peer_url)
            {
                mask.know(
                    &format!("id{index}"),
                    known["ID"].as_u64().expect("a member's ID"),
                );
            }
            mask.know_text(&format!("client{index}"), &member.endpoint());
            mask.know_text(
                &format!("peer{index}"),
                member.peer_url.trim_start_matches("http://"),
            );
        }
        mask.know_text("dir", &cluster.dir().display().to_string());
        mask
    }

    fn know(&mut self, name: &str, id: u64) {
        self.values.push((name.to_owned(), format!("{id:x}")));
        self.values
            .push((format!("{name}.decimal"), id.to_string()));
        self.known.push((format!("{id:016x}"), format!("<{name}>")));
        // The simple form pads to sixteen digits behind a blank.
        self.known
            .push((format!(" {id:>16x}"), format!(" <{name}>")));
        self.known.push((format!("{id:x}"), format!("<{name}>")));
        self.known.push((id.to_string(), format!("<{name}>")));
    }

    fn know_text(&mut self, name: &str, text: &str) {
        self.values.push((name.to_owned(), text.to_owned()));
        self.known.push((text.to_owned(), format!("<{name}>")));
    }

    /// The table's `$name`s, filled in.
    pub fn fill_in(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (name, value) in self.values.iter().rev() {
            text = text.replace(&format!("${name}"), value);
        }
        assert!(!text.contains('$'), "{text}: nothing is known of this name");
        text
    }

    /// Learns the ID that a call printed, under the case's name.
    pub fn learn(&mut self, case: &Case, out: &str) {
        let Some(name) = &case.name else { return };
        // JSON and fields have a decimal behind a name; the simple form has hexadecimal digits.
        let decimal = out.split_once("\"ID\"").and_then(|(_, after)| {
            let after = after.trim_start_matches([' ', ':']);
            after[..after.find(|char: char| !char.is_ascii_digit())?]
                .parse()
                .ok()
        });
        let hex = || {
            out.split(|char: char| !char.is_ascii_hexdigit())
                .filter(|word| word.len() >= 14)
                .find_map(|word| u64::from_str_radix(word, 16).ok())
        };
        match decimal.or_else(hex) {
            Some(id) => self.know(name, id),
            None => panic!("line {}: no ID in {out:?}", case.line),
        }
    }

    /// The text with a placeholder for everything that may differ.
    pub fn text(&self, case: &Case, text: &str) -> String {
        let mut text = text.to_owned();
        for (known, placeholder) in &self.known {
            text = text.replace(known, placeholder);
        }
        let words = case.arguments.join(" ");
        let mut masked = String::new();
        for line in text.lines() {
            // etcdctl itself panics on some words; where, is its business.
            if line.starts_with("goroutine ") {
                break;
            }
            let mut line = mask_log(line);
            line = mask_durations(&line);
            line = mask_numbers(&line, NUMBERS);
            if words.contains("timetolive") {
                line = mask_numbers(&line, &["ttl"]);
                line = mask_between(&line, "remaining(", ")");
            }
            if words.contains("endpoint status") {
                line = mask_columns(&line);
            }
            if line.starts_with("ETCD_INITIAL_CLUSTER=") {
                line = in_order(&line);
            }
            if words.contains("snapshot save") {
                line = mask_between(&line, "\"size\":\"", "\"");
            }
            masked.push_str(line.trim_end());
            masked.push('\n');
        }
        if case.racy {
            masked = masked
                .replace("cluster version 3.6", "cluster version 3.7")
                .replace("code = InvalidArgument", "code = FailedPrecondition")
                .replace("invalid downgrade target version", DOWNGRADE_UNDER_WAY);
        }
        if case.sorted {
            let mut lines: Vec<&str> = masked.lines().collect();
            lines.sort_unstable();
            masked = lines.join("\n");
        }
        masked
    }
}

/// etcdctl's own log lines: the time, its own port, the address of its client object.
fn mask_log(line: &str) -> String {
    let line = mask_between(line, "\"ts\":\"", "\"");
    let line = mask_between(&line, "etcd-endpoints://0x", "/");
    mask_between(&line, "LocalAddr: '", "'")
}

/// The items between the quotes, in the order of the alphabet: etcd's is that of IDs.
fn in_order(line: &str) -> String {
    let mut items: Vec<&str> = line
        .split('"')
        .nth(1)
        .unwrap_or_default()
        .split(',')
        .collect();
    items.sort_unstable();
    items.join(",")
}

fn mask_between(line: &str, before: &str, after: &str) -> String {
    let Some(at) = line.find(before) else {
        return line.to_owned();
    };
    let start = at + before.len();
    let Some(length) = line[start..].find(after) else {
        return line.to_owned();
    };
    format!("{}~{}", &line[..start], &line[start + length..])
}

/// Columns of `endpoint status` in its simple form: sizes, use, term and indexes.
fn mask_columns(line: &str) -> String {
    let columns: Vec<&str> = line.split(", ").collect();
    if columns.len() < 12 || line.starts_with('{') {
        return line.to_owned();
    }
    let masked = columns
        .iter()
        .enumerate()
        .map(|(index, column)| match index {
            4..=6 | 10..=12 => "~",
            _ => column,
        });
    masked.collect::<Vec<_>>().join(", ")
}

/// Durations as Go prints them, below a second or with a fraction: `1.5s`, `12.3ms`, `7µs`.
fn mask_durations(line: &str) -> String {
    let mut out = String::new();
    let mut rest = line;
    while let Some(at) = rest.find(|char: char| char.is_ascii_digit()) {
        let (before, number) = rest.split_at(at);
        out.push_str(before);
        let end = number
            .find(|char: char| !char.is_ascii_digit() && char != '.')
            .unwrap_or(number.len());
        let unit = ["ns", "µs", "ms", "s"].into_iter().find(|unit| {
            number[end..]
                .strip_prefix(unit)
                .is_some_and(|after| !after.starts_with(|char: char| char.is_alphanumeric()))
        });
        let starts_word = !before.ends_with(|char: char| char.is_alphanumeric());
        match unit {
            Some(unit) if starts_word && (unit != "s" || number[..end].contains('.')) => {
                out.push('~');
                rest = &number[end + unit.len()..];
            }
            _ => {
                out.push_str(&number[..end]);
                rest = &number[end..];
            }
        }
    }
    out.push_str(rest);
    out
}

/// `"name":123` and `"Name" : 123` of the given fields, whatever their case and underscores.
fn mask_numbers(line: &str, fields: &[&str]) -> String {
    let mut out = String::new();
    let mut rest = line;
    while let Some(colon) = rest.find(':') {
        let (before, after) = rest.split_at(colon + 1);
        out.push_str(before);
        let name = before[..colon]
            .trim_end()
            .trim_end_matches('"')
            .rsplit('"')
            .next();
        let name = name.unwrap_or_default().replace('_', "").to_lowercase();
        let digits = after.trim_start();
        let digits = digits
            .find(|char: char| !char.is_ascii_digit())
            .unwrap_or(digits.len());
        if digits > 0 && fields.contains(&name.as_str()) {
            out.push('~');
            rest = &after.trim_start()[digits..];
        } else {
            rest = after;
        }
    }
    out.push_str(rest);
    out
}
