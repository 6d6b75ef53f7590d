//! Payloads that can be sent: serializable values, and text that is already JSON.

/// A value that can be the payload of a message: any value with serde's `Serialize`, and
/// [`Json`](crate::Json), whose text is sent unchanged. [`Blob`](crate::Blob)s and
/// [`Tensor`](crate::Tensor)s in a value travel beside its JSON. A value with a part that JSON cannot express,
/// such as `f64::NAN`, is refused with the path to that part.
///
/// ```
/// # use ipc_framework::client::{ClientOptions, Endpoint};
/// # use ipc_framework::{Config, Json, Server};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let server = Server::bind(Config::default().port(0))?;
/// # let port = server.addresses()[0].port().unwrap();
/// # let handle = server.handle();
/// # let running = std::thread::spawn(move || { let mut server = server; server.run() });
/// # let mut options = ClientOptions::new("app");
/// # options.connection.endpoint = Endpoint::tcp("localhost", port);
/// let client = options.connect()?;
/// client.publish("prices", &("tea", 3))?; // a value, written as JSON
/// client.publish("prices", &Json::parse(r#"["tea", 3]"#)?)?; // a text, not read again
/// # client.close()?;
/// # handle.stop();
/// # running.join().unwrap()?;
/// # Ok(())
/// # }
/// ```
#[diagnostic::on_unimplemented(note = "a payload is `Json`, or implements serde's `Serialize`")]
pub trait Payload: sealed::Append {}

impl<T: sealed::Append + ?Sized> Payload for T {}

mod sealed {
    use serde::Serialize;

    use crate::proto::{Carried, Json, JsonError, append_value};

    /// Sealed, because an implementation must append exactly one JSON document.
    pub trait Append {
        /// Returns the attachments for which nulls of the document stand.
        fn append_to(&self, out: &mut Vec<u8>) -> Result<Option<Box<Carried<'_>>>, JsonError>;
    }

    impl<T: Serialize + ?Sized> Append for T {
        fn append_to(&self, out: &mut Vec<u8>) -> Result<Option<Box<Carried<'_>>>, JsonError> {
            Ok(append_value(out, self)?)
        }
    }

    impl Append for Json<'_> {
        fn append_to(&self, out: &mut Vec<u8>) -> Result<Option<Box<Carried<'_>>>, JsonError> {
            out.extend_from_slice(self.as_str().as_bytes());
            Ok(self.carried().map(|carried| Box::new(carried.to_borrowed())))
        }
    }
}
