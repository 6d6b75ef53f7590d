//! The applications of the published `ipc-server` program, and an echo for benchmarks.
//!
//! This file is an example of handlers: it uses only the public API.

use std::time::{SystemTime, UNIX_EPOCH};

use ipc_framework::Server;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Adds `chat_app`, `file_share`, `monitoring` and `bench` to a server.
pub(super) fn install(server: &mut Server) {
    install_chat(server);
    install_file_sharing(server);
    install_monitoring(server);
    install_bench(server);
}

#[derive(Deserialize)]
#[serde(default)]
struct ChatMessage {
    username: Value,
    text: Value,
}

impl Default for ChatMessage {
    fn default() -> Self {
        Self { username: json!("Anonymous"), text: json!("") }
    }
}

fn install_chat(server: &mut Server) {
    let mut app = server.application("chat_app", "Chat Application");
    for channel_id in ["general", "tech_talk", "random"] {
        app.channel(channel_id)
            .on_request(move |mut request| {
                let chat: ChatMessage = request.payload()?;
                let sent_at = request.message().timestamp();
                let heard = json!({
                    "type": "chat_message",
                    "username": chat.username,
                    "text": chat.text,
                    "timestamp": sent_at,
                });
                request.notify(channel_id, &heard)?;
                request.reply(&Accepted::OK)
            })
            .on_notification(move |mut notification| {
                let joined: ChatMessage = notification.payload()?;
                let heard = json!({
                    "type": "user_joined",
                    "username": joined.username,
                    "timestamp": unix_seconds(),
                });
                notification.notify(channel_id, &heard)?;
                Ok(())
            });
    }
}

#[derive(Deserialize)]
#[serde(default)]
struct FileRequest {
    filename: Value,
}

impl Default for FileRequest {
    fn default() -> Self {
        Self { filename: json!("unknown") }
    }
}

fn install_file_sharing(server: &mut Server) {
    const EXPIRES_AFTER_SECONDS: f64 = 3_600.0;
    let mut app = server.application("file_share", "File Sharing Service");
    app.channel("status");
    app.channel("upload").on_request(|mut request| {
        let upload: FileRequest = request.payload()?;
        let progress = json!({
            "type": "upload_progress",
            "filename": upload.filename,
            "progress": 100,
            "status": "completed",
        });
        request.notify("status", &progress)?;
        request.reply(&Accepted::OK)
    });
    app.channel("download").on_request(|request| {
        let download: FileRequest = request.payload()?;
        let name = match &download.filename {
            Value::String(name) => name.clone(),
            other => other.to_string(),
        };
        request.reply(&json!({
            "filename": download.filename,
            "download_url": format!("http://example.com/files/{name}"),
            "expires_at": unix_seconds() + EXPIRES_AFTER_SECONDS,
        }))
    });
}

#[derive(Deserialize)]
#[serde(default)]
struct Metric {
    metric: String,
    value: f64,
}

impl Default for Metric {
    fn default() -> Self {
        Self { metric: "unknown".to_owned(), value: 0.0 }
    }
}

fn install_monitoring(server: &mut Server) {
    const CPU_USAGE_MAX: f64 = 80.0;
    let mut app = server.application("monitoring", "System Monitoring");
    app.channel("alerts");
    app.channel("metrics").on_notification(|mut notification| {
        let report: Metric = notification.payload()?;
        if report.metric == "cpu_usage" && report.value > CPU_USAGE_MAX {
            let alert = json!({
                "type": "high_cpu_alert",
                "metric": report.metric,
                "value": report.value,
                "threshold": 80,
                "severity": "warning",
            });
            notification.notify("alerts", &alert)?;
        }
        Ok(())
    });
}

/// Answers a request with its own payload, unchanged.
fn install_bench(server: &mut Server) {
    server.application("bench", "Benchmarks").channel("echo").on_request(|request| {
        let payload = request.json();
        request.reply_json(&payload)
    });
}

/// The published program does not answer such requests, so a caller of it waits in vain.
#[derive(Serialize)]
struct Accepted {
    status: &'static str,
}

impl Accepted {
    const OK: Self = Self { status: "ok" };
}

fn unix_seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
