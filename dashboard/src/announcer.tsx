import { useEffect, useState } from 'preact/hooks';

/** Between two sentences to those who listen. */
const ANNOUNCE_MS = 5_000;

/**
 * Tells those who cannot see it what is changed, one sentence at a time.
 * @param latest key of the latest line of a log; -1 where there is none
 * @param sentenceSince what happened after a line
 */
export function Announcer(props: {
  readonly latest: () => number;
  readonly sentenceSince: (key: number) => string;
}) {
  const { latest, sentenceSince } = props;
  const [sentence, setSentence] = useState('');
  useEffect(() => {
    let lastKey = latest();
    const timer = setInterval(() => {
      const news = sentenceSince(lastKey);
      lastKey = latest();
      if (news !== '') setSentence(news);
    }, ANNOUNCE_MS);
    return () => clearInterval(timer);
  }, []);
  return (
    <div class="hidden" role="log" aria-live="polite" aria-label="Changes">
      {sentence}
    </div>
  );
}
