/** The one place where a message's text becomes elements: plain text for now, so nothing in it can ever be markup. */
export function MessageText({ text }: { text: string }) {
  return (
    <div class="message-text" dir="auto">
      {text}
    </div>
  );
}
