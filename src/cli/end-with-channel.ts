/** Stops this process when the one that started it with a channel is gone: nobody else would stop it any more. */
export function endWithChannel(): void {
  process.channel?.unref();
  process.once('disconnect', () => process.kill(process.pid, 'SIGTERM'));
}
