import type { ServerResponse } from 'node:http';
import type { Channel } from './channel.ts';

/** What a client may leave unread before it is let go; it comes back and asks for what it has missed. */
export const MAX_UNREAD_BYTES = 1024 * 1024;

/** Says that the connection lives where there is nothing to tell: a watched server may be down. */
export const HEARTBEAT_MS = 2_000;

/** Frames sent at once to who comes back; who has missed more asks for the history. */
export const MAX_REPLAY_FRAMES = 300;

/**
 * Sends the frames of a channel as they come, as server-sent events with the identifier `BOOT-SEQ`.
 * @param lastEventId of the last frame that the client has. If it was of another run of the program, or is too old, the
 *   event `reset` says that the client must ask for overview and history anew; then the new frames follow.
 * @param greeting an event that everybody gets first of all
 * @returns ends it
 */
export function streamEvents(
  response: ServerResponse,
  channel: Channel,
  bootId: string,
  lastEventId: string | undefined,
  greeting?: { readonly event: string; readonly text: string },
): () => void {
  response.writeHead(200, { 'Content-Type': 'text/event-stream', 'Cache-Control': 'no-store' });
  const write = (message: string) => {
    response.write(message);
    // It reads too slowly, or not at all.
    if (response.writableLength > MAX_UNREAD_BYTES) response.destroy();
  };
  const send = (seq: number, text: string) => write(`id: ${bootId}-${seq}\ndata: ${text}\n\n`);
  const tell = (event: string, text: string) => write(`event: ${event}\ndata: ${text}\n\n`);
  const { ring } = channel;
  const [, boot, digits] = /^([\w]+)-(\d{1,15})$/.exec(lastEventId ?? '') ?? [];
  const next = Number(digits) + 1;
  const isKnown =
    boot === bootId &&
    next >= ring.firstSeq &&
    next <= ring.lastSeq + 1 &&
    next > ring.lastSeq - MAX_REPLAY_FRAMES;
  if (isKnown) {
    let seq = next;
    for (const text of ring.between(next, Number.POSITIVE_INFINITY)) send(seq++, text);
  } else if (lastEventId !== undefined) tell('reset', '{}');
  if (greeting !== undefined) tell(greeting.event, greeting.text);
  // The headers are to leave also where there is no frame yet.
  response.write(': hello\n\n');
  const unfollow = channel.follow({ frame: send, event: tell, end: () => response.end() });
  const heartbeat = setInterval(() => response.write(':\n\n'), HEARTBEAT_MS).unref();
  response.on('close', () => {
    clearInterval(heartbeat);
    unfollow();
  });
  return () => {
    unfollow();
    response.end();
  };
}
