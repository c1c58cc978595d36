/** ONNX Runtime's domain of operators in blocked layout; they are internal to it, hence its version is pinned. */
export const NCHWC_DOMAIN = 'com.microsoft.nchwc';
