//! Users and groups, from `/etc/passwd` and `/etc/group`.

use super::sys::Identity;
use std::fs;

/// What is known of a user.
pub struct User {
    /// Identity of processes.
    pub identity: Identity,
    /// Login name; empty if the number has none.
    pub name: String,
    /// Home directory.
    pub home: String,
}

/// Finds `USER`, `UID`, `USER:GROUP` or `UID:GID` in the guest's own files.
pub fn find(wanted: &str) -> Result<User, String> {
    // A guest need not have these files; numbers do without.
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    find_in(wanted, &read("/etc/passwd"), &read("/etc/group"))
}

fn find_in(wanted: &str, passwd: &str, group: &str) -> Result<User, String> {
    let (user, wanted_group) = match wanted.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (wanted, None),
    };
    let number: Option<u32> = user.parse().ok().filter(|&number| number != u32::MAX);
    let row = passwd.lines().map(fields).find(|row| match number {
        Some(number) => row.get(2).and_then(|uid| uid.parse().ok()) == Some(number),
        None => row.first() == Some(&user),
    });
    let field = |index: usize| row.as_ref().and_then(|row| row.get(index)).copied().unwrap_or_default();
    let Some(uid) = number.or_else(|| field(2).parse().ok()) else {
        return Err(format!("no such user: {user}"));
    };
    let gid = match wanted_group {
        None => field(3).parse().unwrap_or(0),
        Some(wanted) => {
            let known = group.lines().map(fields).find(|row| row.first() == Some(&wanted));
            let gid = wanted.parse().ok().or_else(|| known.and_then(|row| row.get(2)?.parse().ok()));
            gid.filter(|&gid| gid != u32::MAX).ok_or_else(|| format!("no such group: {wanted}"))?
        }
    };
    let name = field(0).to_owned();
    let mut groups = vec![gid];
    // Naming a group means that one only.
    if wanted_group.is_none() && !name.is_empty() {
        let member = |row: &Vec<&str>| row.get(3).is_some_and(|list| list.split(',').any(|one| one == name));
        let more = group.lines().map(fields).filter(member).filter_map(|row| row.get(2)?.parse::<u32>().ok());
        groups.extend(more.filter(|&other| other != gid));
    }
    let home = Some(field(5)).filter(|home| !home.is_empty()).unwrap_or("/").to_owned();
    Ok(User { identity: Identity { uid, gid, groups }, name, home })
}

fn fields(line: &str) -> Vec<&str> {
    line.split(':').collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nann:x:1000:100::/home/ann:/bin/sh\nbroken\n";
    const GROUP: &str = "root:x:0:\nusers:x:100:ann\nwheel:x:10:root,ann\n";

    fn found(wanted: &str) -> (u32, u32, Vec<u32>, String) {
        let user = find_in(wanted, PASSWD, GROUP).map_err(|error| panic!("{error}")).unwrap();
        (user.identity.uid, user.identity.gid, user.identity.groups, user.home)
    }

    #[test]
    fn users_are_found_by_name_and_number() {
        assert_eq!(found("ann"), (1000, 100, vec![100, 10], "/home/ann".into()));
        assert_eq!(found("1000"), found("ann"));
        assert_eq!(found("ann:wheel"), (1000, 10, vec![10], "/home/ann".into()));
        assert_eq!(found("55:66"), (55, 66, vec![66], "/".into()));
        assert_eq!(found("55"), (55, 0, vec![0], "/".into()));
    }

    #[test]
    fn unknown_users_and_groups_are_errors() {
        for wanted in ["bob", "", "broken", "ann:nobody", "4294967295"] {
            assert!(find_in(wanted, PASSWD, GROUP).is_err(), "{wanted}");
        }
    }
}
