import { useEffect, useId, useRef } from "preact/hooks";

interface ConfirmProps {
  question: string;
  warning: string;
  yes: string;
  no: string;
  onYes: () => void;
  onClose: () => void;
}

/** A modal question. The harmless answer has the focus, and Esc gives it. */
export function Confirm({ question, warning, yes, no, onYes, onClose }: ConfirmProps) {
  const dialog = useRef<HTMLDialogElement>(null);
  const id = useId();
  useEffect(() => {
    if (dialog.current?.open === false) dialog.current.showModal();
  }, []);
  // Not by the dialog's own close event: it comes later than the focus goes back, and a quick key would be lost.
  const answer = (agreed: boolean) => {
    dialog.current?.close();
    onClose();
    if (agreed) onYes();
  };
  return (
    <dialog
      ref={dialog}
      class="confirm"
      aria-labelledby={id}
      onCancel={(event) => {
        event.preventDefault();
        answer(false);
      }}
      onKeyDown={(event) => event.stopPropagation()}
    >
      <h2 id={id}>{question}</h2>
      <p>{warning}</p>
      <div class="confirm-answers">
        <button type="button" class="button" autofocus onClick={() => answer(false)}>
          {no}
        </button>
        <button type="button" class="button button-danger" onClick={() => answer(true)}>
          {yes}
        </button>
      </div>
    </dialog>
  );
}
