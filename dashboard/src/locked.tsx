import { useState } from 'preact/hooks';
import { storedToken, storeToken } from './api.ts';
import type { Connection } from './feed.ts';

/** Asks for the token without which the server shows nothing. */
export function Locked(props: {
  readonly feed: { readonly connection: Connection; readonly problem: string; retry(): void };
}) {
  const { feed } = props;
  const [token, setToken] = useState('');
  return (
    <section aria-label="Access">
      <form
        class="banner"
        onSubmit={(event) => {
          event.preventDefault();
          storeToken(token);
          feed.retry();
        }}
      >
        <span role="alert">{feed.connection === 'locked' ? whyLocked(feed.problem) : feed.problem}</span>
        {feed.connection === 'locked' && (
          <>
            <label for="read-token">Token</label>
            <input
              id="read-token"
              type="password"
              autocomplete="off"
              value={token}
              onInput={(event) => setToken(event.currentTarget.value)}
            />
            <button type="submit">Show</button>
          </>
        )}
      </form>
    </section>
  );
}

/** Who has given a token wants to know that it was looked at. */
function whyLocked(problem: string): string {
  return storedToken() === '' ? problem : 'The server does not accept this token.';
}
