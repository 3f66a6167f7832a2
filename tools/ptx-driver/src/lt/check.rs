//! Checks that descriptors fit each other: sizes, types, strides, epilogues.

use super::{Answer, BF16, Description, F32, Layout, invalid, unsupported, width};

/// `cublasLtOrder_t`
const COLUMNS: i32 = 0;
const ROWS: i32 = 1;

/// Operations of an epilogue (`cublasLtEpilogue_t`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Epilogue {
    pub bias: bool,
    pub relu: bool,
    pub gelu: bool,
    /// Stores the input of GELU, or one bit for each value that says whether ReLU keeps it.
    pub aux_out: bool,
    /// Keeps the values whose bit of the auxiliary matrix is set.
    pub d_relu: bool,
    /// Multiplies by the derivative of GELU at the auxiliary matrix.
    pub d_gelu: bool,
    /// Sums the result over its columns.
    pub bias_gradient: bool,
    /// Sums `op(A)` or `op(B)` over `k`.
    pub gradient_a: bool,
    pub gradient_b: bool,
}

impl Epilogue {
    pub fn of(number: u32) -> Answer<Epilogue> {
        let none = Epilogue::default();
        Ok(match number {
            1 => none,
            2 => Epilogue { relu: true, ..none },
            4 => Epilogue { bias: true, ..none },
            6 => Epilogue { bias: true, relu: true, ..none },
            32 => Epilogue { gelu: true, ..none },
            36 => Epilogue { gelu: true, bias: true, ..none },
            160 => Epilogue { gelu: true, aux_out: true, ..none },
            164 => Epilogue { gelu: true, aux_out: true, bias: true, ..none },
            192 => Epilogue { d_gelu: true, ..none },
            208 => Epilogue { d_gelu: true, bias_gradient: true, ..none },
            256 => Epilogue { gradient_a: true, ..none },
            512 => Epilogue { gradient_b: true, ..none },
            130 => Epilogue { relu: true, aux_out: true, ..none },
            134 => Epilogue { relu: true, aux_out: true, bias: true, ..none },
            136 => Epilogue { d_relu: true, ..none },
            152 => Epilogue { d_relu: true, bias_gradient: true, ..none },
            _ => return invalid(format!("epilogue {number}")),
        })
    }

    /// Whether the vector at `BIAS_POINTER` is used.
    pub fn vector(self) -> bool {
        self.bias || self.bias_gradient || self.gradient_a || self.gradient_b
    }

    /// Whether the matrix at `EPILOGUE_AUX_POINTER` is used.
    pub fn matrix(self) -> bool {
        self.aux_out || self.d_gelu || self.d_relu
    }

    /// Whether the elements of the auxiliary matrix are bits.
    pub fn bits(self) -> bool {
        self.d_relu || self.relu && self.aux_out
    }

    /// Returns the bytes of `elements` elements of the auxiliary matrix.
    pub fn aux_bytes(self, elements: u64, kind: u32) -> u64 {
        if self.bits() { elements.div_ceil(8) } else { elements * width(kind) }
    }
}

/// Rows and columns of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sizes {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub batch: usize,
}

impl Layout {
    /// Returns the offset of an element in its matrix, in elements.
    pub fn at(&self, row: usize, column: usize) -> usize {
        let ld = self.ld as usize;
        if self.order == ROWS { row * ld + column } else { row + column * ld }
    }

    /// Returns the number of elements from the first to the last of one matrix.
    pub fn span(&self) -> usize {
        self.at(self.rows as usize - 1, self.columns as usize - 1) + 1
    }

    fn check(&self, name: &str) -> Answer {
        if self.rows == 0 || self.columns == 0 {
            let (rows, columns) = (self.rows, self.columns);
            return invalid(format!("{name} has {rows} rows and {columns} columns"));
        }
        if self.order != COLUMNS && self.order != ROWS {
            return unsupported(format!("{name} has order {}, not modelled", self.order));
        }
        let least = if self.order == ROWS { self.columns } else { self.rows };
        if self.ld < 0 || (self.ld as u64) < least {
            let ld = self.ld;
            return invalid(format!("{name} has a leading dimension of {ld}, less than {least}"));
        }
        if self.batch < 1 {
            return invalid(format!("{name} has a batch of {}", self.batch));
        }
        if self.batch > 1 && self.stride < 0 {
            return unsupported(format!("{name} has a stride of {}, not modelled", self.stride));
        }
        Ok(())
    }
}

/// Checks the descriptors and returns the sizes of the product.
pub(crate) fn check(product: &Description, layouts: &[Layout; 4]) -> Answer<Sizes> {
    let [a, b, c, d] = layouts;
    for (layout, name) in layouts.iter().zip(["A", "B", "C", "D"]) {
        layout.check(name)?;
    }
    let turned = |layout: &Layout, operation: i32| {
        let (rows, columns) = (layout.rows as usize, layout.columns as usize);
        if operation == 0 { (rows, columns) } else { (columns, rows) }
    };
    let (m, k) = turned(a, product.operation[0]);
    let (k_of_b, n) = turned(b, product.operation[1]);
    if product.operation[2] != 0 {
        return unsupported("C cannot be transposed");
    }
    if product.fill_mode != 2 {
        return unsupported("only full matrices");
    }
    if k != k_of_b {
        return invalid(format!("op(A) is [{m}, {k}], op(B) is [{k_of_b}, {n}]"));
    }
    for (layout, name) in [(c, "C"), (d, "D")] {
        let (rows, columns) = (layout.rows, layout.columns);
        if (rows as usize, columns as usize) != (m, n) {
            return invalid(format!("{name} is [{rows}, {columns}], the product [{m}, {n}]"));
        }
    }
    types(product, layouts)?;
    if layouts.iter().any(|layout| layout.batch != d.batch) {
        let counts = layouts.map(|layout| layout.batch);
        return invalid(format!("batches of {counts:?} matrices A, B, C and D"));
    }
    if d.order != c.order {
        return unsupported("C and D of different order");
    }
    if d.batch > 1 && (d.stride as usize) < d.span() {
        // Interleaved matrices with a stride below the span do not occur here.
        return invalid(format!("matrices D that overlap: {} apart, {} long", d.stride, d.span()));
    }
    epilogue(product, d)?;
    Ok(Sizes { m, n, k, batch: d.batch as usize })
}

/// Checks the combination of types against the table of `cublasLtMatmul`, as far as modelled.
fn types(product: &Description, [a, b, c, d]: &[Layout; 4]) -> Answer {
    let kinds = [a.kind, b.kind, c.kind, d.kind];
    if kinds.iter().any(|kind| *kind != F32 && *kind != BF16) {
        return unsupported(format!("types {kinds:?}; f32 (0) and bf16 (14) are modelled"));
    }
    if product.scale != F32 {
        return unsupported(format!("alpha and beta of type {}, not f32 (0)", product.scale));
    }
    if product.pointer_mode != 0 {
        return unsupported("alpha and beta on the device are not modelled");
    }
    match (product.compute, kinds) {
        (68 | 69, [BF16, BF16, BF16, BF16] | [BF16, BF16, F32, F32] | [F32, F32, F32, F32]) => {
            Ok(())
        }
        (77, [F32, F32, F32, F32]) => Ok(()),
        (compute, kinds) => unsupported(format!(
            "A, B, C, D of types {kinds:?} with compute type {compute}: not in the table of \
             cublasLtMatmul, or not modelled"
        )),
    }
}

fn epilogue(product: &Description, d: &Layout) -> Answer {
    let epilogue = Epilogue::of(product.epilogue)?;
    if epilogue == Epilogue::default() {
        return Ok(());
    }
    if d.order == ROWS {
        return unsupported("an epilogue with D by rows");
    }
    let kind = |kind: i32| u32::try_from(kind).unwrap_or(d.kind);
    if epilogue.vector() && kind(product.bias_kind) != d.kind {
        return unsupported(format!("a bias of type {} for D of {}", product.bias_kind, d.kind));
    }
    if epilogue.vector() && d.batch > 1 && product.bias_stride < 0 {
        return invalid("a negative stride of the bias");
    }
    if !epilogue.matrix() {
        return Ok(());
    }
    if !epilogue.bits() && kind(product.aux_kind) != d.kind {
        let aux = product.aux_kind;
        return unsupported(format!("an auxiliary matrix of type {aux} for D of {}", d.kind));
    }
    // Elements of a mask are bits.
    let of = if epilogue.bits() { 128 } else { 8 };
    if product.aux_ld % of != 0 || product.aux_ld < d.rows as i64 {
        return invalid(format!(
            "the auxiliary matrix has a leading dimension of {}: it has to be a multiple of {of} \
             and at least {}",
            product.aux_ld, d.rows
        ));
    }
    let long = product.aux_ld * (d.columns as i64 - 1) + d.rows as i64;
    if d.batch > 1 && (product.aux_stride % of != 0 || product.aux_stride < long) {
        return invalid(format!("auxiliary matrices {} elements apart", product.aux_stride));
    }
    Ok(())
}

/// Checks that pointers have the alignment for which an algorithm was chosen.
pub(crate) fn aligned(address: u64, alignment: u64, kind: u32, name: &str) -> Answer {
    let needed = alignment.max(width(kind));
    if address.is_multiple_of(needed) {
        return Ok(());
    }
    invalid(format!("{name} is at {address:#x}, not at a multiple of {needed} bytes"))
}
