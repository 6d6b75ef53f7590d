//! `ipc serve` while its process is stopped, as by a debugger or in a paused container. Nobody is
//! judged by a time in which the server has read nothing.

use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::cli::{Running, serve};
use crate::support::succeeds_once;

const TIMEOUT: Duration = Duration::from_secs(1);

#[test]
fn what_was_said_while_the_server_was_stopped_is_read_before_time_is_looked_at() {
    let arguments = ["--port", "0", "--idle-timeout", "1s", "--handshake-timeout", "1s"];
    let running = Running::start(serve(&arguments));
    succeeds_once(|| {
        let began = Instant::now();
        let mut speaks = running.connected("bench", "speaks");
        let mut silent = running.connected("bench", "silent");
        let mut newcomer = running.peer().called("bench", "newcomer");
        // It is accepted before a later message is answered.
        speaks.fence();
        running.signal("STOP");
        speaks.send("publish", "news", json!(1));
        let connect = json!({"action": "connect", "connection_id": "newcomer"});
        newcomer.send("request", "system", connect);
        let was_in_time = began.elapsed() < TIMEOUT;
        sleep(TIMEOUT * 2);
        running.signal("CONT");
        if !was_in_time {
            return Err("the machine took too long to say anything in time".to_owned());
        }
        speaks.fence();
        assert_eq!(newcomer.receive()["payload"]["status"], "connected");
        silent.expect_end();
        Ok(())
    });
    running.terminate();
}
