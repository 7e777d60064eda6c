// A busy browser loads a widget's code slowly. When that takes more than two seconds, anywidget (0.9
// to 0.11) drops whatever Python sends to the widget, for good: it stays empty, or as it was. Where
// that happened, messages are taken without anywidget, and the state is asked for once more.
async function hear(model) {
  const whole = await model.widget_manager?.get_model(model.get("_address"));
  if (!whole?.comm) return;
  try {
    await whole._handle_comm_msg({ content: { data: {} } });
  } catch {
    const plain = Object.getPrototypeOf(Object.getPrototypeOf(whole))._handle_comm_msg;
    whole.comm.on_msg((message) => plain.call(whole, message));
    whole.comm.send({ method: "request_state" });
  }
}

