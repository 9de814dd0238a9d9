//! From one tree to the next: which changes the target has to make, in which order. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::tree::{Kind, Name, Tree, is_below, parent};

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    /// With everything below it.
    Remove(Name),
    /// Make it as it is in the new tree. `empty`: a directory that hides what was there before.
    Put { name: Name, empty: bool },
    /// One more name of a file that was put.
    Link { name: Name, to: Name },
}

/// What changed since `old` (everything, if there is none). `whole`: what is not in `new` is not there at all, whatever the
/// target has. `unsure`: inodes that may have changed without looking so.
pub(crate) fn changes(old: Option<&Tree>, new: &Tree, whole: bool, unsure: &BTreeSet<u64>) -> Vec<Change> {
    let mut removed: Vec<Name> = Vec::new();
    let mut put: BTreeSet<&Name> = BTreeSet::new();
    let mut emptied: BTreeSet<&Name> = BTreeSet::new();

    for name in old.iter().flat_map(|tree| tree.entries.keys()) {
        if !new.entries.contains_key(name) && removed.last().is_none_or(|last| !is_below(name, last)) {
            removed.push(name.clone());
        }
    }
    for (name, entry) in &new.entries {
        let before = old.and_then(|tree| tree.entries.get(name).map(|entry| (entry, tree.taken)));
        let hides = matches!(entry.kind, Kind::Dir { hides: true });
        let is_same = before.is_some_and(|(before, taken)| {
            // The size of a directory says nothing, and its change time is that of the files in it.
            before == entry && (entry.is_dir() || (!before.changed.is_racy_at(taken) && !unsure.contains(&entry.inode)))
        });
        let hid = before.is_some_and(|(b, _)| b.inode == entry.inode && matches!(b.kind, Kind::Dir { hides: true }));
        if (hides && !hid) || (name.is_empty() && whole && old.is_none()) {
            emptied.insert(name);
        }
        let is_emptied = emptied.iter().any(|dir| is_below(name, dir));
        if is_same && !is_emptied && !emptied.contains(name) {
            continue;
        }
        if entry.kind == Kind::Gone {
            removed.push(name.clone());
        } else {
            put.insert(name);
        }
    }

    // Names of one inode are made together or not at all: a file that is put is a new one on the target.
    let mut names: BTreeMap<u64, Vec<&Name>> = BTreeMap::new();
    for (name, entry) in new.entries.iter().filter(|(_, entry)| entry.is_shared()) {
        names.entry(entry.inode).or_default().push(name);
    }
    let mut links: BTreeMap<&Name, &Name> = BTreeMap::new();
    for group in names.values() {
        if group.iter().any(|name| put.contains(*name)) {
            put.extend(group);
            links.extend(group[1..].iter().map(|name| (*name, group[0])));
        }
    }
    // What is done in a directory changes its time of change.
    let touched: Vec<&[u8]> = put.iter().map(|name| name.as_slice()).chain(removed.iter().map(Vec::as_slice)).collect();
    let parents: Vec<&[u8]> = touched.into_iter().filter_map(parent).collect();
    let known = parents.iter().filter_map(|dir| new.entries.get_key_value(*dir));
    put.extend(known.filter(|(_, entry)| entry.is_dir()).map(|(name, _)| name));

    let mut all: Vec<Change> = removed.iter().cloned().map(Change::Remove).collect();
    all.extend(put.into_iter().map(|name| match links.get(name) {
        Some(to) => Change::Link { name: name.clone(), to: (*to).clone() },
        None => Change::Put { name: name.clone(), empty: emptied.contains(name) },
    }));
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{Entry, Instant, Meta};

    fn entry(kind: Kind, inode: u64, links: u64) -> Entry {
        let at = Instant { seconds: 100, nanos: 0 };
        Entry { kind, meta: Meta { modified: at, ..Meta::default() }, inode, links, changed: at }
    }

    fn tree(entries: &[(&str, Entry)]) -> Tree {
        let mut tree = Tree { taken: Instant { seconds: 200, nanos: 0 }, ..Tree::default() };
        tree.entries.insert(Vec::new(), entry(Kind::Dir { hides: false }, 1, 2));
        tree.entries.extend(entries.iter().map(|(name, entry)| (name.as_bytes().to_vec(), entry.clone())));
        tree
    }

    fn file(inode: u64) -> Entry {
        entry(Kind::File { size: 1 }, inode, 1)
    }

    fn put(name: &str) -> Change {
        Change::Put { name: name.into(), empty: false }
    }

    #[test]
    fn nothing_changed_is_nothing_to_do() {
        let tree = tree(&[("a", file(2)), ("b", entry(Kind::Gone, 3, 1))]);
        assert_eq!(changes(Some(&tree), &tree, false, &BTreeSet::new()), []);
    }

    #[test]
    fn what_may_have_changed_unseen_is_sent_again() {
        let before = tree(&[("a", file(2)), ("b", file(3))]);
        let mapped = BTreeSet::from([2]);
        assert_eq!(changes(Some(&before), &before, false, &mapped), [put(""), put("a")]);
        let mut just_now = before.clone();
        just_now.taken = Instant { seconds: 100, nanos: 1 };
        assert_eq!(changes(Some(&just_now), &before, false, &BTreeSet::new()), [put(""), put("a"), put("b")]);
    }

    #[test]
    fn a_whiteout_and_a_file_that_went_are_removed() {
        let before = tree(&[("d", entry(Kind::Dir { hides: false }, 2, 2)), ("d/x", file(3)), ("d/y", file(4))]);
        let after = tree(&[("d", entry(Kind::Gone, 5, 1))]);
        let all = changes(Some(&before), &after, false, &BTreeSet::new());
        assert_eq!(all[..2], [Change::Remove("d/x".into()), Change::Remove("d/y".into())]);
        assert_eq!(all[2..], [Change::Remove("d".into()), put("")]);
    }

    #[test]
    fn names_of_one_inode_are_made_together() {
        let two = || entry(Kind::File { size: 1 }, 2, 2);
        let before = tree(&[("a", two()), ("b", two())]);
        let after = tree(&[("a", Entry { meta: Meta { mode: 7, ..Meta::default() }, ..two() }), ("b", two())]);
        let all = changes(Some(&before), &after, false, &BTreeSet::new());
        assert_eq!(all, [put(""), put("a"), Change::Link { name: "b".into(), to: "a".into() }]);
    }

    #[test]
    fn a_directory_that_came_to_hide_is_filled_anew() {
        let dir = |hides| entry(Kind::Dir { hides }, 2, 2);
        let before = tree(&[("d", dir(false)), ("d/x", file(3))]);
        let after = tree(&[("d", dir(true)), ("d/x", file(3))]);
        let all = changes(Some(&before), &after, false, &BTreeSet::new());
        assert_eq!(all, [put(""), Change::Put { name: "d".into(), empty: true }, put("d/x")]);
        assert_eq!(changes(Some(&after), &after, false, &BTreeSet::new()), []);
    }
}
