//! The process under test: does what it is told by lines on its standard input, and answers each with a line.

#![allow(unsafe_code)]

use std::ffi::CString;
use std::io::{BufRead, Write};
use std::os::unix::process::CommandExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const PAGE: u64 = 4096;

static CALM: AtomicBool = AtomicBool::new(false);
static SIGNALS: AtomicU64 = AtomicU64::new(0);
static HAMMERED: AtomicU64 = AtomicU64::new(0);

fn main() {
    println!("ready");
    let mut line = String::new();
    let mut threads: Vec<std::thread::JoinHandle<()>> = Vec::new();
    loop {
        line.clear();
        if std::io::stdin().lock().read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |nth: usize| -> u64 {
            let word: &str = words[nth];
            word.strip_prefix("0x").map_or_else(|| word.parse().unwrap(), |hex| u64::from_str_radix(hex, 16).unwrap())
        };
        let answer = match words[0] {
            "map" => map(0, number(1), libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE, -1),
            "mapat" => map(number(1), number(2), libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED, -1),
            "shared" => map(0, number(1), libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1),
            "droppable" => map(0, number(1), 0x08 | libc::MAP_ANONYMOUS, -1),
            "memfd" => {
                let fd = check(unsafe { libc::memfd_create(c"subject".as_ptr(), 0) }.into());
                check(unsafe { libc::ftruncate(fd as i32, (number(1) * PAGE) as i64) }.into());
                map(0, number(1), libc::MAP_SHARED, fd as i32)
            }
            "file" => {
                let path = CString::new(words[1]).unwrap();
                let fd = check(unsafe { libc::open(path.as_ptr(), libc::O_RDONLY) }.into());
                map(0, number(2), libc::MAP_PRIVATE, fd as i32)
            }
            "direct" => {
                let path = CString::new(words[1]).unwrap();
                let fd = unsafe { libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_DIRECT) };
                if fd < 0 { format!("-{}", errno()) } else { "ok".into() }
            }
            "write" => {
                (0..number(2)).for_each(|page| fill(number(1) + page * PAGE, number(3) + page));
                "ok".into()
            }
            "read" => {
                for page in 0..number(2) {
                    let _ = unsafe { ((number(1) + page * PAGE) as *const u64).read_volatile() };
                }
                "ok".into()
            }
            "readinto" => {
                let path = CString::new(words[1]).unwrap();
                let fd = check(unsafe { libc::open(path.as_ptr(), libc::O_RDONLY) }.into()) as i32;
                let at = number(2) as *mut libc::c_void;
                let n = check(unsafe { libc::read(fd, at, (number(3) * PAGE) as usize) } as i64);
                unsafe { libc::close(fd) };
                format!("{n}")
            }
            "unmap" => done(unsafe { libc::munmap(number(1) as *mut libc::c_void, (number(2) * PAGE) as usize) }),
            "drop" => advise(number(1), number(2), libc::MADV_DONTNEED),
            "free" => advise(number(1), number(2), libc::MADV_FREE),
            "huge" => advise(number(1), number(2), libc::MADV_HUGEPAGE),
            "guard" => advise(number(1), number(2), 102),
            "protect" => {
                let protection = match words[3] {
                    "none" => libc::PROT_NONE,
                    "r" => libc::PROT_READ,
                    _ => libc::PROT_READ | libc::PROT_WRITE,
                };
                let at = number(1) as *mut libc::c_void;
                done(unsafe { libc::mprotect(at, (number(2) * PAGE) as usize, protection) })
            }
            "move" => {
                let to = map(0, number(2), libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1);
                let target = u64::from_str_radix(to.trim_start_matches("0x"), 16).unwrap();
                let size = (number(2) * PAGE) as usize;
                let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
                let at = unsafe {
                    libc::mremap(number(1) as *mut libc::c_void, size, size, flags, target as *mut libc::c_void)
                };
                assert_eq!(at as u64, target);
                to
            }
            "grow" => {
                let at = unsafe { libc::sbrk((number(1) * PAGE) as isize) } as u64;
                let at = at.next_multiple_of(PAGE);
                (0..number(1) - 1).for_each(|page| fill(at + page * PAGE, number(2) + page));
                format!("{at:#x}")
            }
            "stack" => format!("{}", deep(number(1))),
            "fork" => {
                let pid = check(unsafe { libc::fork() }.into());
                if pid == 0 {
                    (0..number(2)).for_each(|page| fill(number(1) + page * PAGE, number(3) + page));
                    loop {
                        unsafe { libc::pause() };
                    }
                }
                format!("{pid}")
            }
            "reap" => {
                unsafe { libc::kill(number(1) as i32, libc::SIGKILL) };
                format!("{}", check(unsafe { libc::waitpid(number(1) as i32, std::ptr::null_mut(), 0) }.into()))
            }
            "churn" => churn(Duration::from_millis(number(1))),
            "spawn" => {
                let (began, mut times) = (Instant::now(), 0);
                while began.elapsed() < Duration::from_millis(number(1)) {
                    assert!(std::process::Command::new("sleep").arg("0.005").status().unwrap().success());
                    times += 1;
                }
                format!("{times}")
            }
            "exec" => panic!("{}", std::process::Command::new("/proc/self/exe").exec()),
            "hammer" => {
                CALM.store(false, Ordering::SeqCst);
                let (at, pages) = (number(1), number(2));
                threads.extend((0..number(3)).map(|seed| std::thread::spawn(move || hammer(at, pages, seed + 1))));
                "ok".into()
            }
            "calm" => {
                CALM.store(true, Ordering::SeqCst);
                threads.drain(..).for_each(|t| t.join().unwrap());
                format!("{}", HAMMERED.load(Ordering::SeqCst))
            }
            "sleepers" => {
                for _ in 0..number(1) {
                    std::thread::spawn(|| std::thread::sleep(Duration::from_secs(3600)));
                }
                "ok".into()
            }
            "leave" => {
                // The main thread ends and another lives on.
                std::thread::spawn(|| std::thread::sleep(Duration::from_secs(3600)));
                println!("ok");
                unsafe { libc::syscall(libc::SYS_exit, 0) };
                unreachable!()
            }
            "seccomp" => seccomp(words[1] == "kill"),
            "userfaultfd" => {
                let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, 1) };
                format!("{}", if fd < 0 { -errno() } else { 0 })
            }
            "block" => block(words[1]),
            "suspend" => suspend(number(1)),
            "sequence" => sequence(Duration::from_millis(number(1))),
            "busy" => busy(Duration::from_millis(number(1))),
            other => panic!("what is {other}?"),
        };
        println!("{answer}");
        std::io::stdout().flush().unwrap();
    }
}

fn errno() -> i64 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0).into()
}

fn check(ret: i64) -> i64 {
    assert!(ret >= 0, "{}", std::io::Error::last_os_error());
    ret
}

fn done(ret: i32) -> String {
    check(ret.into());
    "ok".into()
}

fn map(at: u64, pages: u64, flags: i32, fd: i32) -> String {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let at = unsafe { libc::mmap(at as *mut libc::c_void, (pages * PAGE) as usize, protection, flags, fd, 0) };
    if at == libc::MAP_FAILED { format!("{}", -errno()) } else { format!("{:#x}", at as u64) }
}

fn advise(at: u64, pages: u64, advice: i32) -> String {
    let ret = unsafe { libc::madvise(at as *mut libc::c_void, (pages * PAGE) as usize, advice) };
    if ret < 0 { format!("{}", -errno()) } else { "ok".into() }
}

/// A page's content is its seed, all over.
fn fill(at: u64, seed: u64) {
    for word in 0..PAGE / 8 {
        unsafe { ((at + word * 8) as *mut u64).write_volatile(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ word) };
    }
}

#[inline(never)]
fn deep(pages: u64) -> u64 {
    let mut here = [0u8; PAGE as usize];
    std::hint::black_box(&mut here).fill(pages as u8);
    if pages == 0 { 0 } else { deep(pages - 1) + u64::from(std::hint::black_box(&here)[7]) }
}

fn hammer(at: u64, pages: u64, seed: u64) {
    let mut random = seed;
    let mut written = 0;
    while !CALM.load(Ordering::Relaxed) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let page = at + random % pages * PAGE;
        // One word of it, so that as many pages as can be are written.
        unsafe { ((page + (random >> 32) % (PAGE / 8) * 8) as *mut u64).write_volatile(random) };
        written += 1;
        // Now and then the others get a turn.
        if written % 4096 == 0 {
            std::thread::yield_now();
        }
    }
    HAMMERED.fetch_add(written, Ordering::SeqCst);
}

/// Maps, writes, moves and unmaps all the time.
fn churn(time: Duration) -> String {
    let began = Instant::now();
    let mut turns = 0u64;
    let mut kept = Vec::new();
    while began.elapsed() < time {
        turns += 1;
        let at = map(0, 8, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1);
        let at = u64::from_str_radix(&at[2..], 16).unwrap();
        (0..8).for_each(|page| fill(at + page * PAGE, turns * 8 + page));
        let at = match turns % 3 {
            0 => {
                let to =
                    unsafe { libc::mremap(at as *mut libc::c_void, 8 * 4096, 24 * 4096, libc::MREMAP_MAYMOVE) } as u64;
                assert_ne!(to, u64::MAX, "mremap: {}", std::io::Error::last_os_error());
                kept.push((to, 24));
                to
            }
            1 => {
                done(unsafe { libc::munmap((at + 2 * PAGE) as *mut libc::c_void, 4096) });
                kept.push((at, 8));
                at
            }
            _ => {
                done(unsafe { libc::munmap(at as *mut libc::c_void, 8 * 4096) });
                continue;
            }
        };
        fill(at + PAGE, turns);
        if kept.len() > 64 {
            let (at, pages) = kept.swap_remove((turns * 31 % 64) as usize);
            done(unsafe { libc::munmap(at as *mut libc::c_void, (pages * PAGE) as usize) });
        }
    }
    format!("{turns}")
}

/// Forbids userfaultfd(2), as the default profile of container runtimes does.
fn seccomp(kill: bool) -> String {
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let forbidden = if kill { libc::SECCOMP_RET_KILL_PROCESS } else { libc::SECCOMP_RET_ERRNO | libc::EPERM as u32 };
    let mut filter = [
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0),
        libc::sock_filter {
            jf: 1,
            ..statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, libc::SYS_userfaultfd as u32)
        },
        statement(libc::BPF_RET | libc::BPF_K, forbidden),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }.into());
    check(unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) });
    "ok".into()
}

extern "C" fn count(_signal: i32) {
    SIGNALS.fetch_add(1, Ordering::SeqCst);
}

fn handle(signal: i32, flags: i32) {
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = count as *const () as usize;
    action.sa_flags = flags;
    check(unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) }.into());
}

const WAIT_MS: i64 = 400;

/// Blocks the main thread in a call; says what it returned (-errno), and after how many milliseconds.
fn block(call: &str) -> String {
    let time = libc::timespec { tv_sec: 0, tv_nsec: WAIT_MS * 1_000_000 };
    let mut word = 0u32;
    let mut pipe = [0; 2];
    check(unsafe { libc::pipe(pipe.as_mut_ptr()) }.into());
    let empty: libc::sigset_t = unsafe { std::mem::zeroed() };
    let mut alarm = empty;
    unsafe { libc::sigaddset(&raw mut alarm, libc::SIGALRM) };
    let ring = || {
        let once = libc::timeval { tv_sec: 0, tv_usec: WAIT_MS * 1000 };
        let never = libc::timeval { tv_sec: 0, tv_usec: 0 };
        let timer = libc::itimerval { it_interval: never, it_value: once };
        handle(libc::SIGALRM, 0);
        check(unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, std::ptr::null_mut()) }.into());
    };
    let write_later = || {
        let to = pipe[1];
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(WAIT_MS as u64));
            check(unsafe { libc::write(to, c"x".as_ptr().cast(), 1) } as i64);
        });
    };
    let epoll = || {
        let epoll = check(unsafe { libc::epoll_create1(0) }.into()) as i32;
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 0 };
        check(unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, pipe[0], &raw mut event) }.into());
        epoll
    };
    let mut event = libc::epoll_event { events: 0, u64: 0 };
    let futex = |word: *mut u32, time: *const libc::timespec| unsafe {
        libc::syscall(libc::SYS_futex, word, libc::FUTEX_WAIT, 0, time)
    };
    println!("blocking");
    std::io::stdout().flush().unwrap();
    let began = Instant::now();
    let ret: i64 = match call {
        "read" => {
            write_later();
            let mut byte = [0u8; 1];
            unsafe { libc::read(pipe[0], byte.as_mut_ptr().cast(), 1) as i64 }
        }
        "nanosleep" => unsafe { libc::nanosleep(&raw const time, std::ptr::null_mut()).into() },
        "futex-timeout" => futex(&raw mut word, &raw const time),
        "futex" => {
            let at = &raw mut word as u64;
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(WAIT_MS as u64));
                unsafe { libc::syscall(libc::SYS_futex, at, libc::FUTEX_WAKE, 1) };
            });
            futex(&raw mut word, std::ptr::null())
        }
        "epoll-timeout" => unsafe { libc::epoll_wait(epoll(), &raw mut event, 1, WAIT_MS as i32).into() },
        "epoll" => {
            write_later();
            unsafe { libc::epoll_wait(epoll(), &raw mut event, 1, -1).into() }
        }
        "epoll_pwait" => {
            write_later();
            unsafe { libc::epoll_pwait(epoll(), &raw mut event, 1, -1, &raw const alarm).into() }
        }
        "epoll_pwait-signal" => {
            // SIGALRM comes through only while it waits.
            unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const alarm, std::ptr::null_mut()) };
            ring();
            unsafe { libc::epoll_pwait(epoll(), &raw mut event, 1, -1, &raw const empty).into() }
        }
        "poll" => {
            let mut fd = libc::pollfd { fd: pipe[0], events: libc::POLLIN, revents: 0 };
            unsafe { libc::poll(&raw mut fd, 1, WAIT_MS as i32).into() }
        }
        "ppoll" => {
            let mut fd = libc::pollfd { fd: pipe[0], events: libc::POLLIN, revents: 0 };
            unsafe { libc::ppoll(&raw mut fd, 1, &raw const time, &raw const empty).into() }
        }
        "select" => {
            let mut until = libc::timeval { tv_sec: 0, tv_usec: WAIT_MS * 1000 };
            let none = std::ptr::null_mut();
            unsafe { libc::select(0, none, none, none, &raw mut until).into() }
        }
        "sigtimedwait" => {
            unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const alarm, std::ptr::null_mut()) };
            unsafe { libc::sigtimedwait(&raw const alarm, std::ptr::null_mut(), &raw const time).into() }
        }
        "semtimedop" => {
            let set = check(unsafe { libc::semget(libc::IPC_PRIVATE, 1, 0o600) }.into()) as i32;
            let mut op = libc::sembuf { sem_num: 0, sem_op: -1, sem_flg: 0 };
            let ret = unsafe { libc::syscall(libc::SYS_semtimedop, set, &raw mut op, 1, &raw const time) };
            let error = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
            unsafe { libc::semctl(set, 0, libc::IPC_RMID) };
            unsafe { *libc::__errno_location() = error };
            ret
        }
        "recv-timeout" => {
            let mut pair = [0; 2];
            check(unsafe { libc::socketpair(libc::AF_UNIX, libc::SOCK_STREAM, 0, pair.as_mut_ptr()) }.into());
            let until = libc::timeval { tv_sec: 0, tv_usec: WAIT_MS * 1000 };
            let size = size_of::<libc::timeval>() as u32;
            let at = (&raw const until).cast();
            check(unsafe { libc::setsockopt(pair[0], libc::SOL_SOCKET, libc::SO_RCVTIMEO, at, size) }.into());
            let mut byte = [0u8; 1];
            unsafe { libc::read(pair[0], byte.as_mut_ptr().cast(), 1) as i64 }
        }
        "waitpid" => {
            let child = check(unsafe { libc::fork() }.into());
            if child == 0 {
                std::thread::sleep(Duration::from_millis(WAIT_MS as u64));
                unsafe { libc::_exit(0) };
            }
            i64::from(unsafe { libc::waitpid(child as i32, std::ptr::null_mut(), 0) } == child as i32)
        }
        "pause" => {
            ring();
            unsafe { libc::pause().into() }
        }
        "sleep-signal" => {
            ring();
            let long = libc::timespec { tv_sec: 100, tv_nsec: 0 };
            unsafe { libc::nanosleep(&raw const long, std::ptr::null_mut()).into() }
        }
        other => panic!("what is {other}?"),
    };
    let ret = if ret < 0 { -errno() } else { ret };
    format!("{ret} {}", began.elapsed().as_millis())
}

/// Waits for SIGUSR1 again and again, acknowledges each, and checks that each brought the call to an end by EINTR.
fn suspend(times: u64) -> String {
    handle(libc::SIGUSR1, libc::SA_RESTART);
    let empty: libc::sigset_t = unsafe { std::mem::zeroed() };
    let mut usr1 = empty;
    unsafe { libc::sigaddset(&raw mut usr1, libc::SIGUSR1) };
    unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const usr1, std::ptr::null_mut()) };
    SIGNALS.store(0, Ordering::SeqCst);
    println!("suspending");
    for nth in 1..=times {
        let ret = unsafe { libc::sigsuspend(&raw const empty) };
        if ret != -1 || errno() != i64::from(libc::EINTR) || SIGNALS.load(Ordering::SeqCst) != nth {
            return format!("bad: {ret} {} {}", errno(), SIGNALS.load(Ordering::SeqCst));
        }
        println!("{nth}");
    }
    let mut mask = empty;
    unsafe { libc::sigprocmask(libc::SIG_BLOCK, std::ptr::null(), &raw mut mask) };
    let blocked = unsafe { libc::sigismember(&raw const mask, libc::SIGUSR1) };
    format!("good {blocked}")
}

/// Spins in a restartable sequence (rseq(2)); says how often it was begun anew, as it has to be whenever the thread was
/// stopped within; or why it cannot.
fn sequence(time: Duration) -> String {
    let symbol = |name: &std::ffi::CStr| unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    let (offset, size) = (symbol(c"__rseq_offset"), symbol(c"__rseq_size"));
    if offset.is_null() || size.is_null() || unsafe { *size.cast::<u32>() } == 0 {
        return "no rseq".into();
    }
    let thread: u64;
    unsafe { std::arch::asm!("mov {}, fs:0", out(reg) thread) };
    let rseq = thread.wrapping_add_signed(unsafe { *offset.cast::<isize>() } as i64);
    static END: AtomicBool = AtomicBool::new(false);
    END.store(false, Ordering::SeqCst);
    println!("in sequence");
    std::thread::spawn(move || {
        std::thread::sleep(time);
        END.store(true, Ordering::SeqCst);
    });
    let mut restarts = 0u64;
    // The descriptor is struct rseq_cs; glibc has registered this thread with the signature that stands before label 4.
    unsafe {
        std::arch::asm!(
            ".pushsection .data.rseq_cs, \"aw\"",
            ".balign 32",
            "3:",
            ".long 0, 0",
            ".quad 2f, 5f - 2f, 4f",
            ".popsection",
            "jmp 6f",
            ".byte 0x0f, 0xb9, 0x3d",
            ".long 0x53053053",
            "4:",
            "inc {restarts}",
            "6:",
            "lea {scratch}, [rip + 3b]",
            "mov [{rseq} + 8], {scratch}",
            "2:",
            "pause",
            "cmp byte ptr [{end}], 0",
            "je 2b",
            "5:",
            "mov qword ptr [{rseq} + 8], 0",
            restarts = inout(reg) restarts,
            scratch = out(reg) _,
            rseq = in(reg) rseq,
            end = in(reg) END.as_ptr(),
        );
    }
    format!("{restarts}")
}

/// Computes, calls the kernel and checks both, without a pause and under a rain of signals: whatever is not restored shows.
fn busy(time: Duration) -> String {
    handle(libc::SIGALRM, libc::SA_RESTART);
    let often = libc::timeval { tv_sec: 0, tv_usec: 300 };
    let timer = libc::itimerval { it_interval: often, it_value: often };
    check(unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, std::ptr::null_mut()) }.into());
    let began = Instant::now();
    let pid = std::process::id();
    let (mut sum, mut float, mut turns) = (0u64, 1.0f64, 0u64);
    while began.elapsed() < time {
        for step in 0..1000u64 {
            sum = sum.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(step);
            float = float.mul_add(0.999, 0.5);
        }
        let got = unsafe { libc::syscall(libc::SYS_getpid) };
        assert_eq!(got as u32, pid);
        turns += 1;
    }
    let (mut want, mut want_float) = (0u64, 1.0f64);
    for _ in 0..turns {
        for step in 0..1000u64 {
            want = want.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(step);
            want_float = want_float.mul_add(0.999, 0.5);
        }
    }
    let never =
        libc::itimerval { it_interval: libc::timeval { tv_sec: 0, tv_usec: 0 }, ..unsafe { std::mem::zeroed() } };
    check(unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const never, std::ptr::null_mut()) }.into());
    if sum == want && float == want_float { "good".into() } else { "bad".into() }
}
