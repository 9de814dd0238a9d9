//! The workload of the tests and benchmarks: a TCP server that counts.
//!
//! `criu-counter PORT MIB PAGES_PER_MS [KEPT]`: answers every 8-byte number with that number and how many it has answered
//! in all its life, while it holds MIB of memory and dirties pages of it. KEPT is something that it opens and
//! keeps: `raw`, `ping`, `mptcp` or `vsock` sockets, an `io_uring`, a `userfaultfd`, secret memory (`secret`), shared
//! memory of System V (`shm`), a child in namespaces of its own (`child`); or `user`: it lowers a limit of its own, and
//! goes on as another user than root.

#![allow(unsafe_code)]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

static ANSWERED: AtomicU64 = AtomicU64::new(0);

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let number = |i: usize| args[i].parse::<usize>().expect("a number");
    let (port, mib, pages_per_ms) = (number(1), number(2), number(3));
    if let Some(kept) = args.get(4) {
        keep(kept);
    }
    let mut memory = vec![0u8; mib << 20];
    for (i, page) in memory.chunks_mut(4096).enumerate() {
        // Not one page like another, and not compressible to nothing.
        page[..8].copy_from_slice(&(i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    }
    std::thread::spawn(move || {
        let pages = (memory.len() / 4096).max(1);
        let mut next = 0;
        while pages_per_ms > 0 && !memory.is_empty() {
            for _ in 0..pages_per_ms {
                next = (next + 7919) % pages;
                memory[next * 4096 + 16] = memory[next * 4096 + 16].wrapping_add(1);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        // Kept to the end of the process.
        std::mem::forget(memory);
    });
    let listener = TcpListener::bind(("0.0.0.0", port as u16)).expect("a free port");
    for stream in listener.incoming().flatten() {
        std::thread::spawn(move || serve(stream));
    }
}

/// Opens something for the rest of the process's life.
fn keep(what: &str) {
    let socket = |domain, kind, protocol| {
        // SAFETY: integers only.
        unsafe { libc::socket(domain, kind, protocol) }
    };
    let fd = match what {
        "raw" => socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP),
        "ping" => socket(libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_ICMP),
        "mptcp" => socket(libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_MPTCP),
        "vsock" => socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0),
        "io_uring" => {
            let mut params = [0u8; 256];
            // SAFETY: the kernel fills the 120 bytes of io_uring_params, which the buffer has room for.
            unsafe { libc::syscall(libc::SYS_io_uring_setup, 4, params.as_mut_ptr()) as i32 }
        }
        // SAFETY: integers only.
        "userfaultfd" => unsafe { libc::syscall(libc::SYS_userfaultfd, 1) as i32 },
        // SAFETY: integers, and the kernel chooses where the memory is.
        "secret" => unsafe {
            let fd = libc::syscall(libc::SYS_memfd_secret, 0) as i32;
            libc::ftruncate(fd, 4096);
            let map = libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_WRITE, libc::MAP_SHARED, fd, 0);
            libc::close(fd);
            if map == libc::MAP_FAILED { -1 } else { 0 }
        },
        // SAFETY: the kernel chooses where the memory is.
        "shm" => unsafe {
            let id = libc::shmget(libc::IPC_PRIVATE, 4096, libc::IPC_CREAT | 0o600);
            if libc::shmat(id, std::ptr::null(), 0) as isize == -1 { -1 } else { 0 }
        },
        "child" => {
            use std::os::unix::process::CommandExt;
            let mut child = std::process::Command::new("sleep");
            // SAFETY: one system call with an integer between fork and exec. It is waited for: spawn returns after exec.
            unsafe {
                child.pre_exec(|| match libc::unshare(libc::CLONE_NEWUSER) {
                    0 => Ok(()),
                    _ => Err(std::io::Error::last_os_error()),
                })
            };
            child.arg("1000").spawn().map_or(-1, |_| 0)
        }
        "user" => {
            let files = libc::rlimit { rlim_cur: 77, rlim_max: 99 };
            // SAFETY: the kernel reads the structure; otherwise integers.
            unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &files) | libc::setgid(65534) | libc::setuid(65534) }
        }
        other => panic!("{other} is nothing to keep"),
    };
    assert!(fd >= 0, "cannot open {what}: {}", std::io::Error::last_os_error());
}

fn serve(mut stream: TcpStream) {
    stream.set_nodelay(true).expect("nodelay");
    let mut number = [0; 8];
    while stream.read_exact(&mut number).is_ok() {
        let answered = ANSWERED.fetch_add(1, Ordering::SeqCst) + 1;
        let answer = [number, answered.to_le_bytes()].concat();
        if stream.write_all(&answer).is_err() {
            return;
        }
    }
}
