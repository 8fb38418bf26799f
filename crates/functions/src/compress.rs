//! `Compress`: fewer bytes, as base64 text.

use std::io::{self, Write};

use bytes::Bytes;
use edgehold_contracts::base64;
use edgehold_core::{
    BuiltFunction, Context, Data, Flow, FunctionError, InvalidFunction, Parameters, Transform,
};
use flate2::{
    Compression,
    write::{GzEncoder, ZlibEncoder},
};

/// `Compress`, whose `Algorithm` is `gzip` or `zlib`, any case.
pub(crate) fn build(parameters: &Parameters) -> Result<BuiltFunction, InvalidFunction> {
    match parameters.required("Algorithm")? {
        text if text.eq_ignore_ascii_case("gzip") => {
            Ok(BuiltFunction::with_variant(Compress { stream: gzip }, "gzip"))
        }
        text if text.eq_ignore_ascii_case("zlib") => {
            Ok(BuiltFunction::with_variant(Compress { stream: zlib }, "zlib"))
        }
        text => Err(parameters.invalid(
            "Algorithm",
            format!("'{text}', which is neither 'gzip' nor 'zlib'"),
        )),
    }
}

/// Gives the padded base64 of the compressed input as bytes; the response becomes `text/plain`.
struct Compress {
    stream: fn(&[u8]) -> io::Result<Vec<u8>>,
}

impl Transform for Compress {
    fn apply(&self, ctx: &mut Context, data: Data) -> Result<Flow, FunctionError> {
        let compressed =
            (self.stream)(&data.to_bytes(ctx.generation())).expect("writing to memory does not fail");
        ctx.set_response_content_type("text/plain");
        Ok(Flow::Continue(Data::Bytes(Bytes::from(base64::encode(
            &compressed,
        )))))
    }
}

fn gzip(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes)?;
    encoder.finish()
}

fn zlib(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes)?;
    encoder.finish()
}
