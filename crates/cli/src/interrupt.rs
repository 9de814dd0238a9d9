//! ^C, SIGTERM and SIGHUP: asked once, everything is cleaned up and the exit status says so.

use godwit_testbed::Stop;

use crate::failure::{Fail, Result};

/// A stop that the first signal asks for. Later signals change nothing: the clean-up is under way.
pub fn stop_on_signal() -> Result<Stop> {
    let stop = Stop::default();
    let asked = stop.clone();
    ctrlc::set_handler(move || {
        if !asked.is_asked() {
            eprintln!("\ngodwit: interrupted, cleaning up …");
        }
        asked.ask();
    })
    .failed_to("watch for signals")?;
    Ok(stop)
}
