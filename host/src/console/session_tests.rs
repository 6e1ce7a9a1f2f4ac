//! Sessions with a scripted guest in place of a machine.

use super::*;
use crate::config::CtrlD;
use crate::vm::GuestStatus;
use emu_core::snapshot::Written;
use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, mpsc};

/// What the script and the session share.
#[derive(Default)]
struct FakeGuest {
    state: Mutex<FakeState>,
    changed: Condvar,
}

#[derive(Default)]
struct FakeState {
    input: VecDeque<u8>,
    /// Read by the guest, but not a whole line yet.
    line: VecDeque<u8>,
    halted: bool,
    stopped: bool,
    paused: bool,
}

impl FakeGuest {
    /// Waits, halted, for a line of input; `None` when told to stop.
    fn read_line(&self) -> Option<Vec<u8>> {
        let mut state = self.state.lock().unwrap();
        loop {
            if state.stopped {
                return None;
            }
            let input = std::mem::take(&mut state.input);
            state.line.extend(input);
            if let Some(end) = state.line.iter().position(|b| *b == b'\n') {
                state.halted = false;
                return Some(state.line.drain(..=end).collect());
            }
            state.halted = true;
            state = self.changed.wait(state).unwrap();
        }
    }

    /// Waits, halted or not, until told to stop or to pause.
    fn until_stopped(&self, halted: bool) -> StopReason {
        let mut state = self.state.lock().unwrap();
        state.halted = halted;
        while !state.stopped && !state.paused {
            state = self.changed.wait(state).unwrap();
        }
        if std::mem::take(&mut state.paused) { StopReason::Paused } else { StopReason::Stopped }
    }
}

impl Guest for FakeGuest {
    fn type_bytes(&self, bytes: &[u8]) -> bool {
        self.state.lock().unwrap().input.extend(bytes);
        self.changed.notify_all();
        true
    }
    fn wait_space(&self, _: usize) {}
    fn stop(&self) {
        self.state.lock().unwrap().stopped = true;
        self.changed.notify_all();
    }
    fn pause(&self) {
        self.state.lock().unwrap().paused = true;
        self.changed.notify_all();
    }
    fn status(&self) -> GuestStatus {
        let state = self.state.lock().unwrap();
        GuestStatus { input_pending: state.input.len(), listening: true, halted: state.halted }
    }
}

type Script = Box<dyn FnMut(&FakeGuest, &mut dyn SerialSink) -> StopReason + Send>;

struct FakeRunner {
    guest: Arc<FakeGuest>,
    sink: Box<dyn SerialSink>,
    script: Script,
}

impl Runner for FakeRunner {
    fn run(&mut self) -> StopReason {
        (self.script)(&self.guest, &mut *self.sink)
    }
    fn retired(&self) -> u64 {
        42
    }
    fn state_hash(&mut self) -> u64 {
        7
    }
    fn report(&self) -> String {
        "EIP=0".to_owned()
    }
    fn reboot_error(&self) -> Option<String> {
        None
    }
    fn capture(&mut self) -> Box<dyn Capture + '_> {
        Box::new(FakeCapture)
    }
    fn capture_copy(&mut self) -> Box<dyn Capture + Send> {
        Box::new(FakeCapture)
    }
}

struct FakeCapture;

impl Capture for FakeCapture {
    fn stored_bytes(&self) -> u64 {
        0
    }
    fn write(&mut self, _: &mut dyn emu_core::snapshot::Output, _: bool) -> io::Result<Written> {
        Ok(Written { bytes: 0 })
    }
}

/// Standard input whose other end the test holds.
struct Typing(mpsc::Receiver<Vec<u8>>);

impl Read for Typing {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let bytes = self.0.recv().unwrap_or_default();
        buf[..bytes.len()].copy_from_slice(&bytes);
        Ok(bytes.len())
    }
}

#[derive(Clone, Default)]
struct Screen(Arc<Mutex<Vec<u8>>>);

impl Write for Screen {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(buf);
        Ok(buf.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn config() -> SessionConfig {
    SessionConfig { timeout: None, exit_on: None, ctrl_d: CtrlD::Guest, linger: Duration::from_millis(50) }
}

/// Runs a script; returns how it ended and what was printed.
fn vm(runner: FakeRunner, guest: Arc<FakeGuest>) -> Vm {
    Vm {
        runner: Box::new(runner),
        guest,
        service: None,
        restored: false,
        #[cfg(target_os = "linux")]
        network: None,
    }
}

fn run(
    config: SessionConfig,
    writer: Option<Box<dyn Write + Send>>,
    input: Input,
    script: impl FnMut(&FakeGuest, &mut dyn SerialSink) -> StopReason + Send + 'static,
) -> (Ended, Vec<u8>) {
    let screen = Screen::default();
    let session = Session::new(config, writer.unwrap_or(Box::new(screen.clone()))).unwrap();
    let guest = Arc::new(FakeGuest::default());
    let runner = FakeRunner { guest: guest.clone(), sink: session.sink(), script: Box::new(script) };
    let ended = session.run(vm(runner, guest), input, &|_| {}).unwrap();
    let printed = screen.0.lock().unwrap().clone();
    (ended, printed)
}

fn print(sink: &mut dyn SerialSink, text: &[u8]) {
    text.iter().for_each(|&byte| sink.write(byte));
    sink.flush();
}

/// A terminal at which nobody types. Keep the first value.
fn silent() -> (mpsc::Sender<Vec<u8>>, Input) {
    let (keys, typing) = mpsc::channel();
    (keys, Input::Terminal(Box::new(Typing(typing))))
}

fn typed(text: &[u8]) -> (mpsc::Sender<Vec<u8>>, Input) {
    let (keys, input) = silent();
    keys.send(text.to_vec()).unwrap();
    (keys, input)
}

#[test]
fn guest_that_stops_gives_the_status() {
    for (reason, status) in [
        (StopReason::PowerOff, 0),
        (StopReason::Halted, 0),
        (StopReason::TripleFault, 125),
        (StopReason::GuestExit(7), 7),
    ] {
        let (_keys, input) = silent();
        let (ended, printed) = run(config(), None, input, move |_, sink| {
            print(sink, b"bye\r\n");
            reason
        });
        assert_eq!(ended.end.exit_code(), status, "{reason:?}");
        assert_eq!(printed, b"bye\r\n");
        assert_eq!(ended.runner.unwrap().retired(), 42);
    }
}

#[test]
fn typed_keys_reach_the_guest_and_its_answer_is_shown() {
    let (_keys, input) = typed(b"ls\n");
    let (ended, printed) = run(config(), None, input, |guest, sink| {
        let line = guest.read_line().unwrap();
        print(sink, &line);
        StopReason::PowerOff
    });
    assert!(matches!(ended.end, End::Guest(StopReason::PowerOff)));
    assert_eq!(printed, b"ls\n");
}

#[test]
fn ctrl_a_x_ends_a_running_guest() {
    let (_keys, input) = typed(b"\x01hls\x01x");
    let (ended, _) = run(config(), None, input, |guest, _| guest.until_stopped(false));
    assert!(matches!(ended.end, End::Quit));
    assert_eq!(ended.end.exit_code(), 0);
    assert!(ended.runner.is_some());
}

#[test]
fn ctrl_d_ends_or_reaches_the_guest() {
    let (_keys, input) = typed(b"\x04\n");
    let (ended, printed) = run(config(), None, input, |guest, sink| {
        let line = guest.read_line().unwrap();
        print(sink, &line);
        StopReason::PowerOff
    });
    assert!(matches!(ended.end, End::Guest(_)));
    assert_eq!(printed, b"\x04\n");

    let (_keys, input) = typed(b"\x04\n");
    let config = SessionConfig { ctrl_d: CtrlD::Exit, ..config() };
    let (ended, printed) = run(config, None, input, |guest, _| guest.until_stopped(true));
    assert!(matches!(ended.end, End::CtrlD));
    assert_eq!(printed, b"");
}

#[test]
fn lost_terminal_ends_the_session() {
    let (keys, input) = silent();
    drop(keys);
    let (ended, _) = run(config(), None, input, |guest, _| guest.until_stopped(true));
    assert!(matches!(ended.end, End::InputFailed(_)));
    assert_eq!(ended.end.exit_code(), 1);
}

#[test]
fn piped_input_is_answered_before_its_end_ends_the_session() {
    let input = Input::Pipe(Box::new(&b"one\ntwo\n"[..]));
    let (ended, printed) = run(config(), None, input, |guest, sink| {
        print(sink, b"# ");
        while let Some(line) = guest.read_line() {
            for _ in 0..1000 {
                print(sink, b"working\n");
            }
            print(sink, &line);
            print(sink, b"# ");
        }
        StopReason::Stopped
    });
    assert!(matches!(ended.end, End::InputEnd), "{:?}", ended.end);
    assert_eq!(ended.end.exit_code(), 0);
    let text = String::from_utf8(printed).unwrap().replace("working\n", "");
    assert_eq!(text, "# one\n# two\n# ");
}

#[test]
fn end_of_piped_input_leaves_a_busy_guest_alone() {
    let input = Input::Pipe(Box::new(&b""[..]));
    let config = SessionConfig { timeout: Some(Duration::from_millis(200)), ..config() };
    let (ended, _) = run(config, None, input, |guest, _| guest.until_stopped(false));
    assert!(matches!(ended.end, End::Timeout(_)), "{:?}", ended.end);
}

#[test]
fn large_piped_input_arrives_whole_and_in_order() {
    let text: Vec<u8> = (0..500u32).flat_map(|i| format!("line {i}\n").into_bytes()).collect();
    let expected = text.clone();
    let input = Input::Pipe(Box::new(io::Cursor::new(text)));
    let (ended, printed) = run(config(), None, input, |guest, sink| {
        while let Some(line) = guest.read_line() {
            print(sink, &line);
        }
        StopReason::Stopped
    });
    assert!(matches!(ended.end, End::InputEnd), "{:?}", ended.end);
    assert_eq!(printed, expected);
}

#[test]
fn exit_on_text_ends_the_session_and_what_follows_at_once_is_shown() {
    let (_keys, input) = silent();
    let config = SessionConfig { exit_on: Some(b"login:".to_vec()), ..config() };
    let (ended, printed) = run(config, None, input, |guest, sink| {
        print(sink, b"alpine log");
        print(sink, b"in: ");
        guest.until_stopped(true)
    });
    assert!(matches!(ended.end, End::ExitPattern));
    assert_eq!(ended.end.exit_code(), 0);
    assert_eq!(printed, b"alpine login: ");
}

#[test]
fn exit_on_text_counts_also_if_the_guest_stops_right_after_it() {
    let (_keys, input) = silent();
    let config = SessionConfig { exit_on: Some(b"done".to_vec()), ..config() };
    let (ended, _) = run(config, None, input, |_, sink| {
        print(sink, b"done");
        StopReason::PowerOff
    });
    assert!(matches!(ended.end, End::ExitPattern), "{:?}", ended.end);
}

#[test]
fn timeout_ends_a_guest_that_waits_for_a_stuck_terminal() {
    struct Stuck(mpsc::Receiver<()>);
    impl Write for Stuck {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            Ok(buf.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let (hold, held) = mpsc::channel();
    let (_keys, input) = silent();
    let config = SessionConfig { timeout: Some(Duration::from_millis(100)), ..config() };
    let (ended, _) = run(config, Some(Box::new(Stuck(held))), input, |guest, sink| {
        while !guest.state.lock().unwrap().stopped {
            print(sink, &[b'x'; 4096]);
        }
        StopReason::Stopped
    });
    assert!(matches!(ended.end, End::Timeout(_)));
    assert_eq!(ended.end.exit_code(), 124);
    drop(hold);
}

#[test]
fn closed_output_ends_the_session_as_a_broken_pipe_does() {
    struct Closed;
    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let (_keys, input) = silent();
    let (ended, _) = run(config(), Some(Box::new(Closed)), input, |guest, sink| {
        print(sink, b"x");
        guest.until_stopped(false)
    });
    assert!(matches!(ended.end, End::OutputFailed(_)));
    assert_eq!(ended.end.exit_code(), 141);
}

#[test]
fn signal_ends_the_session_with_its_number() {
    let screen = Screen::default();
    let session = Session::new(config(), Box::new(screen)).unwrap();
    session.sender().send(Event::Signal(15)).unwrap();
    let guest = Arc::new(FakeGuest::default());
    let script: Script = Box::new(|guest, _| guest.until_stopped(false));
    let runner = FakeRunner { guest: guest.clone(), sink: session.sink(), script };
    let (_keys, input) = silent();
    let ended = session.run(vm(runner, guest), input, &|_| {}).unwrap();
    assert_eq!(ended.end.exit_code(), 143);
}

#[test]
fn panic_of_the_machine_is_an_error_and_no_hang() {
    let (_keys, input) = silent();
    let (ended, _) = run(config(), None, input, |_, _| panic!("scripted"));
    assert!(matches!(ended.end, End::Panicked));
    assert_eq!(ended.end.exit_code(), 1);
    assert!(ended.runner.is_none());
}

/// Types `keys` to a guest that only waits, saving with `saver`; returns what the user was told.
fn run_saving(saver: Option<Saver>, keys: &[&[u8]]) -> (Ended, Vec<String>) {
    let mut session = Session::new(config(), Box::new(io::sink())).unwrap();
    if let Some(saver) = saver {
        session = session.save_with(saver);
    }
    let guest = Arc::new(FakeGuest::default());
    let script: Script = Box::new(|guest, _| guest.until_stopped(true));
    let runner = FakeRunner { guest: guest.clone(), sink: session.sink(), script };
    let (typing, typed) = mpsc::channel();
    keys.iter().for_each(|keys| typing.send(keys.to_vec()).unwrap());
    let told = Mutex::new(Vec::new());
    let notice = |text: &str| told.lock().unwrap().push(text.trim_end().to_owned());
    let vm = vm(runner, guest);
    let ended = session.run(vm, Input::Terminal(Box::new(Typing(typed))), &notice).unwrap();
    (ended, told.into_inner().unwrap())
}

#[test]
fn ctrl_a_s_saves_and_the_guest_runs_on_until_the_user_leaves() {
    let saver: Saver = Arc::new(|capture| {
        assert_eq!(capture.write(&mut Vec::new(), false).unwrap().bytes, 0);
        Ok("saved".to_owned())
    });
    let (ended, told) = run_saving(Some(saver), &[b"\x01s", b"\x01x"]);
    assert!(matches!(ended.end, End::Quit) && ended.alive && ended.runner.is_some());
    assert_eq!(told.first().map(String::as_str), Some("env86: saving in the background"));
    // Who leaves before the guest has paused has not begun to save.
    assert!(told.len() == 1 || told.last().is_some_and(|last| last == "env86: saved"), "{told:?}");
}

#[test]
fn saving_that_fails_says_so_and_ends_nothing() {
    let (begun, wait) = mpsc::channel();
    let begun = Mutex::new(begun);
    let saver: Saver = Arc::new(move |_| {
        begun.lock().unwrap().send(()).unwrap();
        Err("disk full".to_owned())
    });
    // The end comes when the saver has been called.
    let mut session = Session::new(config(), Box::new(io::sink())).unwrap().save_with(saver);
    session = session.greet(b"hello\n");
    let sender = session.sender();
    let quitter = thread::spawn(move || {
        sender.send(Event::Command(Command::Save)).unwrap();
        wait.recv().unwrap();
        sender.send(Event::Command(Command::Quit)).unwrap();
    });
    let guest = Arc::new(FakeGuest::default());
    let script: Script = Box::new(|guest, _| guest.until_stopped(true));
    let runner = FakeRunner { guest: guest.clone(), sink: session.sink(), script };
    let told = Mutex::new(Vec::new());
    let notice = |text: &str| told.lock().unwrap().push(text.trim_end().to_owned());
    let ended = session.run(vm(runner, guest.clone()), Input::Nothing, &notice).unwrap();
    quitter.join().unwrap();
    assert!(matches!(ended.end, End::Quit));
    assert_eq!(told.into_inner().unwrap().last().unwrap(), "env86: disk full");
    assert_eq!(guest.state.lock().unwrap().input, b"hello\n");
}

#[test]
fn second_save_is_refused_while_the_first_is_written() {
    let (release, hold) = mpsc::channel::<()>();
    let hold = Mutex::new(hold);
    let saver: Saver = Arc::new(move |_| {
        let _ = hold.lock().unwrap().recv();
        Ok("saved".to_owned())
    });
    let mut session = Session::new(config(), Box::new(io::sink())).unwrap();
    session = session.save_with(saver);
    let sender = session.sender();
    for command in [Command::Save, Command::Save, Command::Quit] {
        sender.send(Event::Command(command)).unwrap();
    }
    let guest = Arc::new(FakeGuest::default());
    let script: Script = Box::new(|guest, _| guest.until_stopped(true));
    let runner = FakeRunner { guest: guest.clone(), sink: session.sink(), script };
    let told = Mutex::new(Vec::new());
    let notice = |text: &str| {
        told.lock().unwrap().push(text.trim_end().to_owned());
        if text.contains("waiting") {
            let _ = release.send(());
        }
    };
    session.run(vm(runner, guest), Input::Nothing, &notice).unwrap();
    let told = told.into_inner().unwrap();
    assert!(told[1].contains("still saving"), "{told:?}");
}

#[test]
fn saving_to_nowhere_is_said() {
    let (_, told) = run_saving(None, &[b"\x01s", b"\x01x"]);
    assert_eq!(told, ["env86: there is nowhere to save to"]);
}
