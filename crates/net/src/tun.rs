//! TUN devices: a program at the other end of a layer-3 network device.
//!
//! The device is not persistent: it, and every route through it, goes away with the last descriptor, also when
//! the process is killed. Source: Documentation/networking/tuntap.rst, include/uapi/linux/if_tun.h.

#![allow(unsafe_code)] // ioctl(2) has no safe wrapper for these requests

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

use crate::netlink::check_ifname;
use crate::{NetError, Netns, Result};

const TUNSETIFF: libc::Ioctl = 0x4004_54ca;
const TUNSETOFFLOAD: libc::Ioctl = 0x4004_54d0;
const IFF_TUN: libc::c_short = 0x0001;
const IFF_NO_PI: libc::c_short = 0x1000;
const IFF_VNET_HDR: libc::c_short = 0x4000;
const TUN_F_CSUM: libc::c_uint = 0x01;
const TUN_F_TSO4: libc::c_uint = 0x02;
const TUN_F_TSO6: libc::c_uint = 0x04;
const TUN_F_TSO_ECN: libc::c_uint = 0x08;

/// Length of the `virtio_net_hdr` before each packet of a device opened with [`Framing::VirtioNet`].
pub(crate) const VNET_HDR: usize = 10;

/// What a read from the device gives, and a write takes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// An IP packet, whole, with its checksums.
    Plain,
    /// A `virtio_net_hdr`, then an IP packet: up to 64 KiB and without checksum when offloads are on.
    VirtioNet,
}

/// A TUN device made by this process.
pub(crate) struct Tun {
    file: File,
    ns: String,
    name: String,
}

impl Tun {
    /// Makes the device in the namespace; it is down. Reads do not block.
    pub(crate) fn create(ns: &Netns, name: &str, framing: Framing) -> Result<Self> {
        check_ifname(name)?;
        // The device belongs to the namespace of whoever opens the file.
        let file = ns
            .enter(|| {
                OpenOptions::new()
                    .read(true)
                    .write(true)
                    .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
                    .open("/dev/net/tun")
            })?
            .map_err(|e| NetError::tun(ns.name(), name, "open /dev/net/tun", e))?;
        let tun = Self { file, ns: ns.name().into(), name: name.into() };
        tun.attach(framing).map_err(|e| tun.error("create the TUN device", e))?;
        Ok(tun)
    }

    fn attach(&self, framing: Framing) -> io::Result<()> {
        // SAFETY: ifreq is plain data for which all zeroes is valid.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(self.name.bytes()) {
            *to = from.cast_signed();
        }
        let vnet = if framing == Framing::VirtioNet { IFF_VNET_HDR } else { 0 };
        request.ifr_ifru.ifru_flags = IFF_TUN | IFF_NO_PI | vnet;
        // SAFETY: the descriptor is open, and TUNSETIFF reads and writes one ifreq at the pointer, which is ours
        // for the length of the call; its name is terminated (check_ifname allows 15 bytes of 16).
        let rc = unsafe { libc::ioctl(self.file.as_raw_fd(), TUNSETIFF, &raw mut request) };
        if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Lets the kernel hand over, or stop handing over, large TCP segments and unfinished checksums.
    pub(crate) fn set_offload(&self, on: bool) -> Result<()> {
        let flags = if on { TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN } else { 0 };
        // SAFETY: the descriptor is open, and TUNSETOFFLOAD takes its argument by value.
        let rc = unsafe { libc::ioctl(self.file.as_raw_fd(), TUNSETOFFLOAD, libc::c_ulong::from(flags)) };
        if rc < 0 { Err(self.error("set its offloads", io::Error::last_os_error())) } else { Ok(()) }
    }

    /// Reads one packet; `None` if there is none now.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            match (&self.file).read(buffer) {
                Ok(len) => return Ok(Some(len)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Hands one packet to the kernel as if it had come in by the device.
    pub(crate) fn write(&self, packet: &[u8]) -> io::Result<()> {
        loop {
            match (&self.file).write(packet) {
                Ok(_) => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn error(&self, action: &'static str, e: io::Error) -> NetError {
        NetError::tun(&self.ns, &self.name, action, e)
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Whether TUN devices can be made here, or why not.
pub fn tun_supported() -> std::result::Result<(), String> {
    match OpenOptions::new().read(true).write(true).open("/dev/net/tun") {
        Ok(_) => Ok(()),
        Err(e) => Err(format!("/dev/net/tun: {e} (try `modprobe tun`, run as root)")),
    }
}
