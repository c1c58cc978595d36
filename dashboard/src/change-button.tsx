/** Opens the dialog that changes a task. */
export function ChangeButton(props: { readonly task: string; readonly onClick: () => void }) {
  return (
    <button
      type="button"
      class="small"
      onClick={props.onClick}
      aria-haspopup="dialog"
      aria-label={`Change ${props.task}`}
    >
      Change
    </button>
  );
}
