//! Attributes of descriptors: numbers, types and sizes of the documentation (CUDA 13.0).

use super::{Answer, Description, Layout, Preference, invalid, unsupported};

/// A value of the caller.
pub(super) struct Value<'a>(pub &'a [u8]);

impl Value<'_> {
    fn exactly<const N: usize>(&self, name: &str) -> Answer<[u8; N]> {
        match self.0.try_into() {
            Ok(bytes) => Ok(bytes),
            Err(_) => invalid(format!("{name} has {N} bytes, {} are given", self.0.len())),
        }
    }

    fn u32(&self, name: &str) -> Answer<u32> {
        self.exactly(name).map(u32::from_ne_bytes)
    }

    fn i32(&self, name: &str) -> Answer<i32> {
        self.exactly(name).map(i32::from_ne_bytes)
    }

    fn u64(&self, name: &str) -> Answer<u64> {
        self.exactly(name).map(u64::from_ne_bytes)
    }

    fn i64(&self, name: &str) -> Answer<i64> {
        self.exactly(name).map(i64::from_ne_bytes)
    }
}

impl Description {
    pub(super) fn new(compute: u32, scale: u32) -> Description {
        Description {
            compute,
            scale,
            pointer_mode: 0,
            operation: [0; 3],
            fill_mode: 2,
            epilogue: 1,
            bias: 0,
            bias_stride: 0,
            bias_kind: -1,
            aux: 0,
            aux_ld: 0,
            aux_stride: 0,
            aux_kind: -1,
        }
    }

    /// `cublasLtMatmulDescAttributes_t`
    pub(super) fn set(&mut self, attribute: u32, value: &Value<'_>) -> Answer {
        match attribute {
            0 => self.compute = value.u32("COMPUTE_TYPE")?,
            1 => self.scale = value.u32("SCALE_TYPE")?,
            2 => self.pointer_mode = value.i32("POINTER_MODE")?,
            3..=5 => {
                let operation = value.i32("TRANSA, TRANSB or TRANSC")?;
                if !(0..=2).contains(&operation) {
                    return invalid(format!("operation {operation}"));
                }
                self.operation[attribute as usize - 3] = operation;
            }
            6 => self.fill_mode = value.i32("FILL_MODE")?,
            7 => self.epilogue = value.u32("EPILOGUE")?,
            8 => self.bias = value.u64("BIAS_POINTER")?,
            10 => self.bias_stride = value.i64("BIAS_BATCH_STRIDE")?,
            11 => self.aux = value.u64("EPILOGUE_AUX_POINTER")?,
            12 => self.aux_ld = value.i64("EPILOGUE_AUX_LD")?,
            13 => self.aux_stride = value.i64("EPILOGUE_AUX_BATCH_STRIDE")?,
            22 => self.aux_kind = value.i32("EPILOGUE_AUX_DATA_TYPE")?,
            26 => self.bias_kind = value.i32("BIAS_DATA_TYPE")?,
            14..=38 => {
                return unsupported(format!("attribute {attribute} of a product, not modelled"));
            }
            _ => return invalid(format!("{attribute} is not an attribute of a product")),
        }
        Ok(())
    }
}

impl Layout {
    /// `cublasLtMatrixLayoutAttribute_t`
    pub(super) fn set(&mut self, attribute: u32, value: &Value<'_>) -> Answer {
        match attribute {
            0 => self.kind = value.u32("TYPE")?,
            1 => self.order = value.i32("ORDER")?,
            2 => self.rows = value.u64("ROWS")?,
            3 => self.columns = value.u64("COLS")?,
            4 => self.ld = value.i64("LD")?,
            5 => self.batch = value.i32("BATCH_COUNT")?,
            6 => self.stride = value.i64("STRIDED_BATCH_OFFSET")?,
            7 | 8 => {
                return unsupported(format!("attribute {attribute} of a layout, not modelled"));
            }
            _ => return invalid(format!("{attribute} is not an attribute of a layout")),
        }
        Ok(())
    }
}

impl Preference {
    /// Defaults: no workspace, and operands aligned to 256 bytes.
    pub(super) const DEFAULT: Preference = Preference { workspace: 0, alignment: [256; 4] };

    /// `cublasLtMatmulPreferenceAttributes_t`
    pub(super) fn set(&mut self, attribute: u32, value: &Value<'_>) -> Answer {
        match attribute {
            0 => {
                value.u32("SEARCH_MODE")?;
            }
            1 => self.workspace = value.u64("MAX_WORKSPACE_BYTES")?,
            3 => {
                let mask = value.u32("REDUCTION_SCHEME_MASK")?;
                if mask > 7 {
                    return invalid(format!("a mask {mask} of reduction schemes"));
                }
            }
            5..=8 => {
                let bytes = value.u32("MIN_ALIGNMENT")?;
                if !bytes.is_power_of_two() {
                    return invalid(format!("an alignment of {bytes} bytes"));
                }
                self.alignment[attribute as usize - 5] = bytes;
            }
            9 => {
                value.u32("MAX_WAVES_COUNT")?;
            }
            12 => {
                value.u64("IMPL_MASK")?;
            }
            _ => return invalid(format!("{attribute} is not an attribute of a preference")),
        }
        Ok(())
    }
}
