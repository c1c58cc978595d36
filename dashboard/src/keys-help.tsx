/** How charts are worked. */
export function KeysHelp() {
  return (
    <footer id="keys">
      Drag over a chart to zoom, double-click to follow again. In the charts: <kbd>←</kbd> <kbd>→</kbd> move,{' '}
      <kbd>+</kbd> <kbd>−</kbd> zoom, <kbd>Space</kbd> pauses, <kbd>1</kbd>–<kbd>4</kbd> choose the time
      shown, <kbd>Esc</kbd> follows again. By touch: sideways moves, two fingers zoom.
    </footer>
  );
}
