//! Serves or asks as a program in Rust: `languages_peer PORT serve CHANNEL`, `languages_peer PORT ask CHANNEL TABLE`.

use ipc_framework::client::{Client, ClientOptions, Endpoint};
use ipc_framework::proto::{Bf16, Element, F16, dtype_of};
use ipc_framework::{Blob, HandlerError, Json, Tensor};
use serde::{Deserialize, Serialize};

type Result<T, E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

/// A line of the table: the bytes in hexadecimal digits, and what they are.
#[derive(Debug, PartialEq, Deserialize)]
struct Row {
    dtype: Option<String>,
    shape: Option<Vec<usize>>,
    data: String,
}

#[derive(Serialize, Deserialize)]
struct Question<T> {
    name: String,
    value: T,
}

#[derive(Serialize, Deserialize)]
struct Answer<T> {
    name: String,
    value: T,
    again: [T; 1],
}

/// An element whose bits can be seen.
trait Bits: Element {
    fn read(bytes: &[u8]) -> Self;
    fn write(self, out: &mut Vec<u8>);
}

macro_rules! numbers {
    ($($type:ty)*) => {
        $(
            impl Bits for $type {
                fn read(bytes: &[u8]) -> Self {
                    Self::from_le_bytes(bytes.try_into().expect("as many as it has"))
                }

                fn write(self, out: &mut Vec<u8>) {
                    out.extend_from_slice(&self.to_le_bytes());
                }
            }
        )*
    };
}

numbers! { u8 i8 u16 i16 u32 i32 u64 i64 f32 f64 }

macro_rules! wrapped {
    ($($type:ty, $read:expr, $write:expr;)*) => {
        $(
            impl Bits for $type {
                fn read(bytes: &[u8]) -> Self {
                    $read(bytes)
                }

                fn write(self, out: &mut Vec<u8>) {
                    $write(self, out);
                }
            }
        )*
    };
}

wrapped! {
    bool, |bytes: &[u8]| bytes[0] == 1, |it: Self, out: &mut Vec<u8>| out.push(it.into());
    F16, |bytes| Self(u16::read(bytes)), |it: Self, out| it.0.write(out);
    Bf16, |bytes| Self(u16::read(bytes)), |it: Self, out| it.0.write(out);
    [f32; 2], |bytes: &[u8]| [0, 4].map(|at| f32::read(&bytes[at..at + 4])),
        |it: Self, out: &mut Vec<u8>| it.into_iter().for_each(|part| part.write(out));
    [f64; 2], |bytes: &[u8]| [0, 8].map(|at| f64::read(&bytes[at..at + 8])),
        |it: Self, out: &mut Vec<u8>| it.into_iter().for_each(|part| part.write(out));
}

/// Calls a function with the Rust type of a dtype's elements.
macro_rules! of_type {
    ($dtype:expr, $call:ident($($argument:expr),*)) => {
        match $dtype {
            "bool" => $call::<bool>($($argument),*),
            "u8" => $call::<u8>($($argument),*),
            "i8" => $call::<i8>($($argument),*),
            "u16" => $call::<u16>($($argument),*),
            "i16" => $call::<i16>($($argument),*),
            "u32" => $call::<u32>($($argument),*),
            "i32" => $call::<i32>($($argument),*),
            "u64" => $call::<u64>($($argument),*),
            "i64" => $call::<i64>($($argument),*),
            "f16" => $call::<F16>($($argument),*),
            "bf16" => $call::<Bf16>($($argument),*),
            "f32" => $call::<f32>($($argument),*),
            "f64" => $call::<f64>($($argument),*),
            "c64" => $call::<[f32; 2]>($($argument),*),
            "c128" => $call::<[f64; 2]>($($argument),*),
            other => panic!("the dtype {other}"),
        }
    };
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut options = ClientOptions::new("bench");
    options.connection.endpoint = Endpoint::tcp("localhost", arguments[0].parse()?);
    let client = options.connect()?;
    if arguments[1] == "serve" {
        client.serve(&arguments[2], 1, |request| answer(&request.payload))?;
        println!("serves");
        loop {
            std::thread::park();
        }
    }
    let rows: Vec<Row> = serde_json::from_str(&std::fs::read_to_string(&arguments[3])?)?;
    let mut alike = 0;
    for row in &rows {
        let got = match &row.dtype {
            None => ask_for_bytes(&client, &arguments[2], row)?,
            Some(dtype) => of_type!(&**dtype, ask(&client, &arguments[2], row))?,
        };
        if got == *row {
            alike += 1;
        } else {
            println!("{:?} {:?} came back as {got:?}", row.dtype, row.shape);
        }
    }
    println!("{alike} of {} alike", rows.len());
    Ok(client.close()?)
}

/// Returns the question with its value once more.
fn answer(question: &Json<'_>) -> Result<Json<'static>, HandlerError> {
    let attachments = question.attachments();
    let value = attachments.get("/value").ok_or("a question has a value beside its JSON")?;
    match value.dtype {
        None => {
            let Question { name, value }: Question<Blob<'_>> = question.decode_borrowed()?;
            Ok(Json::from_serialize(&Answer { name, again: [value.clone()], value })?)
        }
        Some(dtype) => of_type!(dtype.name(), answer_with(question)),
    }
}

fn answer_with<T: Bits>(question: &Json<'_>) -> Result<Json<'static>, HandlerError> {
    let Question { name, value }: Question<Tensor<'_, T>> = question.decode_borrowed()?;
    Ok(Json::from_serialize(&Answer { name, again: [value.clone()], value })?)
}

fn ask_for_bytes(client: &Client, channel: &str, row: &Row) -> Result<Row> {
    let value = Blob::new(bytes_of(&row.data));
    let answer = client.request(channel, &Question { name: "ä".to_owned(), value })?;
    let answer: Answer<Blob<'_>> = answer.payload.decode_borrowed()?;
    assert_eq!(answer.name, "ä");
    Ok(Row { dtype: None, shape: None, data: hex(&answer.again[0]) })
}

fn ask<T: Bits>(client: &Client, channel: &str, row: &Row) -> Result<Row> {
    let bytes = bytes_of(&row.data);
    let elements: Vec<T> = bytes.chunks(dtype_of::<T>().item_bytes()).map(T::read).collect();
    let value = Tensor::new(row.shape.clone().unwrap_or_default(), elements)?;
    let answer = client.request(channel, &Question { name: "ä".to_owned(), value })?;
    let answer: Answer<Tensor<'_, T>> = answer.payload.decode_borrowed()?;
    assert_eq!(answer.name, "ä");
    let mut data = Vec::new();
    answer.again[0].data().iter().for_each(|element| element.write(&mut data));
    let dtype = Some(dtype_of::<T>().name().to_owned());
    Ok(Row { dtype, shape: Some(answer.again[0].shape().to_vec()), data: hex(&data) })
}

fn bytes_of(hex: &str) -> Vec<u8> {
    let digit = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal digits");
    (0..hex.len()).step_by(2).map(digit).collect()
}

fn hex(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from_digit(value.into(), 16).expect("below 16");
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}
