//! Guests get their address in all the usual ways.

use super::bars::words;
use super::servers::Http;
use super::session::{HOST, Session};
use crate::fixtures::packages::Apt;
use crate::run::{output, target_dir, tool};
use anyhow::{Result, ensure};
use std::fs;

/// ISC's client, which most Debian guests have. It needs no library that the test guest lacks.
const DHCLIENT: &str = "isc-dhcp-client";

/// Takes the card's address away.
const FLUSH: &str = "ip addr flush dev eth0; ip route flush dev eth0; : >/etc/resolv.conf";

/// udhcpc has set the guest up; now dhclient does, and then somebody by hand, with another address.
pub fn by_every_client(s: &mut Session<'_>, http: &Http) -> Result<String> {
    let place = target_dir().join("tmp/dhclient");
    if place.exists() {
        fs::remove_dir_all(&place)?;
    }
    let (apt, tree, archive) = (place.join("apt"), place.join("tree"), place.join("dhclient.tar"));
    Apt::open(&apt, None, &["i386"])?.unpack(&[DHCLIENT], &tree)?;
    output(tool("tar").arg("-C").arg(&tree).arg("-cf").arg(&archive).arg("."))?;
    http.publish("dhclient", fs::read(&archive)?);
    fs::remove_dir_all(&place)?;

    let url = format!("host.env86.internal:{}", http.port);
    let unpack = format!("curl -s {HOST}:{}/file/dhclient | tar -x -C / --keep-directory-symlink", http.port);
    // One script: the connection that brings it has ended when the address goes.
    let said = s.script(&format!(
        "{{ {unpack}; {FLUSH}
         dhclient -1 -v eth0 2>&1 | grep -o 'bound to 192.168.127.2 '
         ip -4 -o addr show eth0 | grep -o '192.168.127.2/24'; curl -sS {url}/small/1
         dhclient -x eth0 2>/dev/null; {FLUSH}
         ip addr add 192.168.127.99/24 dev eth0; ip link set eth0 up; ip route add default via 192.168.127.1
         echo nameserver 192.168.127.1 >/etc/resolv.conf; curl -sS {url}/small/1; {FLUSH}
         udhcpc -n -q -i eth0 2>&1 | grep -o 'lease of 192.168.127.2 obtained'; curl -sS {url}/small/1; }}"
    ))?;
    let expected = "bound to 192.168.127.2 192.168.127.2/24 ok ok lease of 192.168.127.2 obtained ok";
    ensure!(words(&said) == expected, "{said:?}");
    Ok("dhclient, by hand, udhcpc".to_owned())
}
