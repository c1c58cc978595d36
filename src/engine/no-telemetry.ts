/**
 * Since 1.29, ONNX Runtime's builds for Linux record which networks are loaded (names, hashes, node counts) and send that
 * to their maker, unless this variable is set when its library is loaded. To be imported before it, in the main
 * thread: threads have a copy of the environment that native code does not see. Whoever sets the variable decides.
 */
process.env.ORT_DISABLE_TELEMETRY ??= '1';
