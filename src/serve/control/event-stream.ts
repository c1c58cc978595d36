import type { ServerResponse } from 'node:http';
import type { Board } from './board.ts';

/** What a client may leave unread before it is let go; it comes back and asks for what it has missed. */
export const MAX_UNREAD_BYTES = 1024 * 1024;

/** Says that the connection lives where there is nothing to tell: a watched server may be down. */
export const HEARTBEAT_MS = 2_000;

/** Frames sent at once to who comes back; who has missed more asks for the history. */
export const MAX_REPLAY_FRAMES = 300;

/**
 * Sends the frames of a board as they come, as server-sent events with the identifier `BOOT-SEQ`.
 * @param lastEventId of the last frame that the client has. If it was of another run of the program, or is too old, the
 *   event `reset` says that the client must ask for overview and history anew; then the new frames follow.
 * @returns ends it
 */
export function streamEvents(
  response: ServerResponse,
  board: Board,
  bootId: string,
  lastEventId: string | undefined,
): () => void {
  response.writeHead(200, { 'Content-Type': 'text/event-stream', 'Cache-Control': 'no-store' });
  const send = (seq: number, text: string) => {
    response.write(`id: ${bootId}-${seq}\ndata: ${text}\n\n`);
    // It reads too slowly, or not at all.
    if (response.writableLength > MAX_UNREAD_BYTES) response.destroy();
  };
  const { ring } = board;
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
  } else if (lastEventId !== undefined) response.write('event: reset\ndata: {}\n\n');
  // The headers are to leave also where there is no frame yet.
  response.write(': hello\n\n');
  const unfollow = board.follow(send);
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
