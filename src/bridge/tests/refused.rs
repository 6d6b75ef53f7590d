//! Links that the own server refuses.

use super::super::state::RETRY;
use super::*;

fn serve(world: &mut World, client: Client, channel: &str) {
    let serve = json!({"action": "serve", "channel": channel});
    world.send(client, &message("request", "system", "serve", &serve));
    assert_eq!(world.payloads(client)[0]["status"], "serving");
}

/// Two servers whose clients hear and serve each other. The first client holds some memory.
fn pair(seed: u64) -> (World, [Client; 2]) {
    let mut world = World::joined(2, seed);
    let clients = [0, 1].map(|at| world.client(at, "c"));
    serve(&mut world, clients[1], "work");
    for number in 0..300 {
        let channel = format!("channel {number}");
        world.send(clients[0], &message("subscribe", &channel, "s", &json!({})));
    }
    world.send(clients[1], &message("subscribe", "news", "s", &json!({})));
    world.rest();
    (world, clients)
}

/// The first server loses all its links.
fn lose_links(world: &mut World) {
    let links: Vec<_> = world.servers[0].links.values().copied().collect();
    assert_eq!(links.len(), 2);
    world.with(0, |server| {
        for link in links {
            server.broker.hang_up(link, HangUp::Reset);
        }
    });
    assert_eq!(world.servers[0].links.len(), 0);
}

fn limit_memory(world: &mut World, memory_bytes_max: usize) {
    world.with(0, |server| {
        let limits = Limits { memory_bytes_max, ..Limits::default() };
        server.broker.reconfigure(limits, Access::default());
    });
}

fn published_and_asked(world: &mut World, clients: [Client; 2]) -> [Vec<Value>; 2] {
    world.send(clients[0], &message("publish", "news", "p", &json!("news")));
    world.send(clients[0], &message("request", "work", "1", &json!("task")));
    world.rest();
    clients.map(|client| world.payloads(client))
}

#[test]
fn links_that_memory_is_too_short_for_are_tried_until_there_is_enough() {
    let (mut world, clients) = pair(31);
    lose_links(&mut world);
    // More than three quarters are held, and less than seven eighths.
    let held = world.servers[0].broker.context().stats().memory_bytes;
    limit_memory(&mut world, held / 4 * 5);
    let lines = world.servers[0].log.len();
    for _ in 0..6 {
        world.pass(RETRY);
        world.rest();
    }
    let refused: Vec<_> = world.servers[0].log[lines..]
        .iter()
        .filter(|line| line.contains("refused") && line.contains("limit_exceeded"))
        .collect();
    // The bus link was refused its subscription, and the server link its channel; each is told once.
    assert_eq!(refused.len(), 2, "{:?}", world.servers[0].log);
    let [told, heard] = published_and_asked(&mut world, clients);
    assert_eq!((&told[0]["code"], heard), (&json!("no_handler"), Vec::new()));
    limit_memory(&mut world, 1 << 30);
    world.pass(RETRY);
    world.rest();
    let [_, mut heard] = published_and_asked(&mut world, clients);
    heard.sort_by_key(Value::to_string);
    assert_eq!(heard, ["news", "task"], "{:?}", world.servers[0].log);
}

#[test]
fn a_server_that_shuts_down_refuses_links_and_is_not_pestered() {
    let (mut world, _) = pair(32);
    lose_links(&mut world);
    world.with(0, |server| server.broker.begin_drain());
    let opened = world.servers[0].opened;
    for _ in 0..10 {
        world.pass(RETRY);
    }
    let opened = world.servers[0].opened - opened;
    assert!((1..=2 * 10).contains(&opened), "{opened}");
    assert_eq!(world.servers[0].links.len(), 0);
    assert!(world.servers[0].log.iter().any(|line| line.contains("shutting_down")));
    assert_eq!(world.servers[1].machine.stats().refused, 0);
}
