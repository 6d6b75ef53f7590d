"""The console programs `ipc-server`, `ipc-chat`, `ipc-file` and `ipc-monitor`; also examples of the API."""

__all__ = ["basic_server", "chat_client", "file_client", "monitoring_client"]
